package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"levee/internal/audit"
)

// bar shows on a terminal how far an audit has come, and nothing elsewhere.
type bar struct {
	out  io.Writer
	next time.Time
	open bool
}

const (
	barWidth = 40
	barEvery = 200 * time.Millisecond
)

func newBar(out io.Writer) *bar {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bar{out: out}
	}
	return &bar{}
}

// progress returns what an audit tells, nil if nobody watches.
func (b *bar) progress() func(audit.Progress) {
	if b.out == nil {
		return nil
	}
	return func(p audit.Progress) {
		if now := time.Now(); now.After(b.next) {
			b.next, b.open = now.Add(barEvery), true
			b.draw(p)
		}
	}
}

func (b *bar) draw(p audit.Progress) {
	full := int(p.Share() * barWidth)
	fmt.Fprintf(b.out, "\r[%s%s] %3.0f%%, %d entries ", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), 100*p.Share(), p.Entries)
}

// end clears the line.
func (b *bar) end() {
	if b.open {
		fmt.Fprintf(b.out, "\r%*s\r", barWidth+40, "")
	}
}
