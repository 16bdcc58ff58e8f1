package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"levee/internal/audit"
)

// maxShown bounds what a report for people lists.
const maxShown = 20

func printReport(out io.Writer, r *audit.Report, asJSON, withoutKeys bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	var b strings.Builder
	if r.Root != "" { // else the check ended before it began
		summary(&b, r, withoutKeys)
	}
	for _, g := range r.Gaps[:min(len(r.Gaps), maxShown)] {
		fmt.Fprintf(&b, "  %s: %s %s-%d to %d%s\n", g.What, g.Sender, g.Boot, g.First, g.Last, between(g))
	}
	more(&b, len(r.Gaps), "gaps")
	for _, s := range r.Silences[:min(len(r.Silences), maxShown)] {
		until := "to " + day(s.To)
		if !s.Over {
			until = "on"
		}
		fmt.Fprintf(&b, "  silent: %s from %s %s\n", inert(s.Sender), day(s.From), until)
	}
	more(&b, len(r.Silences), "silences")
	for _, d := range r.Delays[:min(len(r.Delays), maxShown)] {
		fmt.Fprintf(&b, "  late: %d messages of %s, sent from %s to %s, by %s at most\n", d.Messages, inert(d.Sender), day(d.First), day(d.Last),
			(time.Duration(d.Longest) * time.Millisecond).Round(time.Second))
	}
	more(&b, len(r.Delays), "senders")
	if r.OK() {
		b.WriteString("nothing is wrong\n")
	} else {
		b.WriteString("WRONG:\n")
	}
	for _, f := range r.Findings[:min(len(r.Findings), maxShown)] {
		fmt.Fprintf(&b, "  %s: %s: %s\n", inert(f.Where), inert(f.Kind), inert(f.What))
	}
	if n := r.Found - maxShown; n > 0 {
		fmt.Fprintf(&b, "  and %d findings more: --json lists up to 1,000\n", n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func more(b *strings.Builder, n int, what string) {
	if n > maxShown {
		fmt.Fprintf(b, "  and %d %s more: --json lists them\n", n-maxShown, what)
	}
}

// summary says what was checked.
func summary(b *strings.Builder, r *audit.Report, withoutKeys bool) {
	macs := fmt.Sprintf("%d verified with the recorder's keys", r.MACs)
	if withoutKeys {
		macs = "not checked: digests alone vouch for readings"
	}
	since := ""
	if r.Since > 0 {
		since = fmt.Sprintf(", %d of them verified before", r.Since)
	}
	fmt.Fprintf(b, `root        %s (SHA-256), site document %d
log         %s
tree        %d entries, root %s%s
signatures  %d verified from the root
issued      %d certificates, %d orders to revoke, %d to readmit, by the journals in the log
MACs        %s
segments    %d files, %d envelopes, of them %d signed and not in the log yet; %d refused messages
digests     %d confirmed over %d messages, %d contradicted, %d incomplete, %d expired
messages    %d missing, %d declared undelivered, %d unvouched, %d waiting for a digest, %d late
commands    %d carried out
`, r.Root, r.Document, r.Origin, r.Entries, r.RootHash, since, r.Signatures,
		r.Issued, r.Revoked, r.Readmitted, macs, r.Segments, r.Envelopes, r.Unlogged, r.Refused,
		r.Confirmed, r.Vouched, r.Contradicted, r.Incomplete, r.Expired, r.Missing, r.Declared, r.Unvouched, r.Pending, r.Late, r.Executions)
	for _, w := range r.Witnesses {
		fmt.Fprintf(b, "witness     %s cosigned %d entries at %s\n", inert(w.Name), r.Witnessed, day(w.Time))
	}
	if r.Unexplained > 0 {
		fmt.Fprintf(b, "note: %d commands that were carried out may have been commanded by messages that are missing, or on their way\n", r.Unexplained)
	}
	if r.AwaitingIssuance > 0 {
		fmt.Fprintf(b, "note: %d certificates began to sign so late that their journal may still be on its way\n", r.AwaitingIssuance)
	}
	for _, authority := range r.WithoutJournal {
		fmt.Fprintf(b, "note: the log holds no journal of %s: whether that issued the certificates of its signers was not checked\n", inert(authority))
	}
}

// day spells a time, in ms since the epoch.
func day(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// between says when a gap was.
func between(g audit.Gap) string {
	switch {
	case g.After > 0 && g.Before > 0:
		return ", between " + day(g.After) + " and " + day(g.Before)
	case g.Before > 0:
		return ", before " + day(g.Before)
	case g.After > 0:
		return ", after " + day(g.After)
	default:
		return ""
	}
}

// printProven says what a proof shows.
func printProven(out io.Writer, p *audit.Proven) error {
	what := fmt.Sprintf("entry %d of %s is a %s of %s, sent at %s, received at %s (%s)", p.Index, p.Origin, p.Kind, inert(p.Sender), day(p.Time), day(p.Received), inert(p.Verdict))
	if p.Vouched {
		what = fmt.Sprintf("%s signed for this message, sent at %s, in a digest that is entry %d of %s", inert(p.Sender), day(p.Time), p.Index, p.Origin)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "root        %s (SHA-256), site document %d\nlog         %s, a checkpoint of %d entries\n", p.Root, p.Document, p.Origin, p.Entries)
	for _, w := range p.Witnesses {
		fmt.Fprintf(&b, "witness     %s cosigned it at %s\n", inert(w.Name), day(w.Time))
	}
	fmt.Fprintf(&b, "%s\n", what)
	if p.Topic != "" {
		fmt.Fprintf(&b, "topic       %s\nnonce       %s\n", inert(p.Topic), inert(p.Nonce))
	}
	fmt.Fprintf(&b, "content     %s\n", inert(p.Payload))
	_, err := io.WriteString(out, b.String())
	return err
}
