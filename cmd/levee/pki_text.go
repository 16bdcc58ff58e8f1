package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"levee/internal/provision"
	"levee/pki"
)

func (p planned) text() []byte {
	var b bytes.Buffer
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "%-7s  %s\n", c.Action, c.Path)
		for _, line := range c.Detail {
			fmt.Fprintf(&b, "           %s\n", line)
		}
	}
	writeDrift(&b, p.Drift)
	if len(p.Changes)+len(p.Drift) == 0 {
		fmt.Fprintf(&b, "%s is as the inventory says: nothing to do\n", p.Out)
	}
	return b.Bytes()
}

func writeDrift(b *bytes.Buffer, all []provision.Drift) {
	for _, d := range all {
		word := "drift"
		if d.Blocks {
			word = "REFUSED"
		}
		fmt.Fprintf(b, "%-7s  %s\n           %s\n", word, d.Path, d.What)
	}
}

func (a applied) print(stdout io.Writer, now time.Time) error {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IDENTITY\tBUNDLE\tEXPIRES\tDAYS\tRENEW BY\t")
	rest := slices.Clone(a.Certificates)
	for _, b := range a.Bundles {
		until := provision.Expiry{NotAfter: b.Expires, RenewBy: b.Expires}
		if i := slices.IndexFunc(rest, func(e provision.Expiry) bool { return e.Who == b.Identity }); i >= 0 && !b.Orphan {
			until = rest[i]
			rest = slices.Delete(rest, i, i+1)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", b.Identity, b.Bundle, due(until, now, b.notes()))
	}
	for _, e := range rest { // the authorities
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Who, e.Path, due(e, now, "key: "+string(e.Key)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range a.Changes {
		if len(c.Detail) > 0 {
			fmt.Fprintf(&text, "\nsigned anew: %s\n", c.Path)
			for _, line := range c.Detail {
				fmt.Fprintf(&text, "  %s\n", line)
			}
		}
	}
	if len(a.Drift) > 0 {
		text.WriteByte('\n')
		writeDrift(&text, a.Drift)
	}
	made, edited := a.count(func(b appliedBundle) bool { return b.Made }), a.count(func(b appliedBundle) bool { return b.Edited })
	fmt.Fprintf(&text, "\n%d bundles, %d of them new, %d changed.", len(a.Bundles), made, a.count(func(b appliedBundle) bool { return b.Carry && !b.Made }))
	if edited > 0 {
		fmt.Fprintf(&text, " A configuration file is written once: remove one to have it written anew.")
	}
	if slices.ContainsFunc(a.Certificates, func(e provision.Expiry) bool { return e.Late(now) }) {
		fmt.Fprintf(&text, "\nTo renew a certificate, remove tls.key and tls.pem of its bundle, and run this again.")
	}
	kept := "sealed"
	if !sealed(a.Certificates) {
		kept = "UNSEALED"
	}
	text.WriteByte('\n')
	if a.count(func(b appliedBundle) bool { return b.Carry }) > 0 {
		fmt.Fprintf(&text, `Carry each new or changed bundle to where it is needed, then start its part there:
  levee-%[1]s --config BUNDLE/levee-%[1]s.yaml
`, pki.RoleBroker)
	}
	fmt.Fprintf(&text, "%s holds the keys of the authorities, %s: it belongs on a machine that runs no part.\n", filepath.Join(a.Out, "authority"), kept)
	for _, s := range a.Inventory.Sites {
		if len(s.Brokers) > 1 {
			fmt.Fprintf(&text, "Site %s has %d brokers, which exchange no messages: run them all, within reach of every part but sensors and people,\nwho use one at a time.\n", s.Name, len(s.Brokers))
		}
	}
	if a.Inventory.Evaluation {
		fmt.Fprintln(&text, "The root was made for evaluation: it lasts seven days, and production refuses it.")
	}
	_, err := stdout.Write(text.Bytes())
	return err
}

// due returns the columns that say until when a certificate lasts.
func due(e provision.Expiry, now time.Time, notes string) string {
	switch {
	case e.Early(now):
		notes = strings.TrimSuffix("NOT VALID YET: a clock was wrong; "+notes, "; ")
	case e.Renews && !now.Before(e.RenewBy):
		notes = strings.TrimSuffix("its part has renewed it; "+notes, "; ")
	case !now.Before(e.NotAfter):
		notes = strings.TrimSuffix("EXPIRED; "+notes, "; ")
	case e.Late(now):
		notes = strings.TrimSuffix("renew now; "+notes, "; ")
	}
	return fmt.Sprintf("%s\t%d\t%s\t%s", e.NotAfter.Format(time.DateOnly), e.Days(now), e.RenewBy.Format(time.DateOnly), notes)
}

// writeExpiries writes who has a certificate until when, and when to renew it.
func writeExpiries(b *bytes.Buffer, all []provision.Expiry, now time.Time) error {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CERTIFICATE\tKEY\tEXPIRES\tDAYS\tRENEW BY\t")
	for _, e := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.Who, e.Key, due(e, now, ""))
	}
	return w.Flush()
}
