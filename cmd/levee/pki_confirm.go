package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirm wants a person's word before something is signed: on a terminal, or
// before, by naming its digest. It never waits where nobody is.
func confirm(stdout io.Writer, digest, yes string) error {
	if yes != "" {
		if yes != digest {
			return failure{exitVerification, fmt.Errorf("--yes %s is not what would be signed: that is %s", yes, digest)}
		}
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usage(fmt.Errorf("no terminal to ask on: when all of the above is right, give --yes %s", digest))
	}
	if _, err := fmt.Fprint(stdout, "Sign this? Type yes: "); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(os.Stdin, 16)).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return errors.New("not signed")
	}
	return nil
}
