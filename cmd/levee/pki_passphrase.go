package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"levee/internal/provision"
	"levee/pki/seal"
)

// passphraseFlags say where the passphrases of authorities' keys come from.
type passphraseFlags struct {
	descriptors, credentials []string
	read                     map[string]seal.Passphrase // by source: a descriptor cannot be read twice
}

func (f *passphraseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.descriptors, "passphrase-fd", nil, "read the passphrase from descriptor `[WHOSE=]N`; WHOSE is root, sites or issuer, left out: all that have none of their own")
	cmd.Flags().StringArrayVar(&f.credentials, "passphrase-credential", nil, "take it from the systemd credential `[WHOSE=]NAME`")
}

// prompts say what a terminal is asked for.
var prompts = map[provision.Secret]string{
	provision.SecretRoot:   "root",
	provision.SecretSites:  "sites' authorities",
	provision.SecretIssuer: "issuers' copies of their authority",
}

// check refuses flags that name nobody, and descriptors that the caller did not
// hand over to be read, before anything else happens: descriptors are read when
// a key is needed, and levee's own files have numbers then as well.
func (f *passphraseFlags) check() error {
	seen := make(map[string]bool)
	for _, value := range slices.Concat(f.descriptors, f.credentials) {
		whose, _, found := strings.Cut(value, "=")
		if !found {
			whose = ""
		}
		if found && !slices.Contains(provision.Secrets(), provision.Secret(whose)) {
			return usage(fmt.Errorf("%q is not root, sites or issuer", whose))
		}
		if seen[whose] {
			return usage(errors.New("a passphrase has two sources"))
		}
		seen[whose] = true
	}
	for _, value := range f.descriptors {
		if _, number, found := strings.Cut(value, "="); found {
			value = number
		}
		if err := seal.CheckDescriptor(value); err != nil {
			return usage(fmt.Errorf("--passphrase-fd: %w", err))
		}
	}
	return nil
}

// source returns where the passphrase of whose comes from.
func (f *passphraseFlags) source(whose provision.Secret, made bool) seal.Source {
	s := seal.Source{Terminal: os.Stdin, Prompt: prompts[whose], New: made}
	for _, prefix := range []string{"", string(whose) + "="} { // the particular one counts
		for _, value := range f.descriptors {
			if n, ok := strings.CutPrefix(value, prefix); ok && !strings.Contains(n, "=") {
				s.Descriptor, s.Credential = n, ""
			}
		}
		for _, value := range f.credentials {
			if name, ok := strings.CutPrefix(value, prefix); ok && !strings.Contains(name, "=") {
				s.Descriptor, s.Credential = "", name
			}
		}
	}
	return s
}

// ask asks for a passphrase, once for each source. A terminal is one source for
// each of whose keys they are.
func (f *passphraseFlags) ask(whose provision.Secret, made bool) (seal.Passphrase, error) {
	s := f.source(whose, made)
	key := s.Descriptor + "/" + s.Credential
	if key == "/" {
		key = string(whose)
	}
	if p, ok := f.read[key]; ok {
		return p, nil
	}
	p, err := seal.Ask(s)
	if err != nil {
		return p, fmt.Errorf("%s: %w", prompts[whose], err)
	}
	if f.read == nil {
		f.read = make(map[string]seal.Passphrase)
	}
	f.read[key] = p
	return p, nil
}
