package recorder

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/internal/provision"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/pki"
	"levee/pki/ca"
)

// childConfig tells the test binary which recorder to be.
const childConfig = "LEVEE_TEST_RECORDER"

// TestChildRecords is the process that TestKilledWhileImporting kills.
func TestChildRecords(t *testing.T) {
	file := os.Getenv(childConfig)
	if file == "" {
		return // only as a child
	}
	p, err := Open(file, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// bank is a site with a recorder, whose journals grow.
type bank struct {
	t        *testing.T
	layout   provision.Layout
	recorder pki.Identity
	issuer   ca.Issuer    // of machines
	peer     *site.Bundle // the issuer's
	journals map[string]*issuance.Journal
	made     int
}

const issuerName = "iss-1"

func newBank(t *testing.T) *bank {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := socket.Addr().String()
	b := &bank{t: t, layout: provision.Layout{Dir: t.TempDir()}, journals: make(map[string]*issuance.Journal)}
	ids, err := provision.Apply(b.layout.Dir, provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:  []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
		Recorder: "rec-1", Issuers: []provision.Issuer{{Name: issuerName, Listen: address, Address: address}},
	}}}, time.Now())
	must(t, err)
	of := func(role pki.Role) pki.Identity {
		return ids[slices.IndexFunc(ids, func(id pki.Identity) bool { return id.Role == role })]
	}
	b.recorder = of(pki.RoleRecorder)
	file := b.layout.Config(b.recorder)
	text, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Contains(text, []byte("\nissuer: ")) {
		must(t, os.WriteFile(file, append(text, "issuer: "+address+"\n"...), 0o600))
	}
	b.peer, err = site.Open(site.Settings{Bundle: config.Path(b.layout.Bundle(of(pki.RoleIssuer))), State: config.Path(t.TempDir()), Evaluation: true}, time.Now())
	must(t, err)
	path := filepath.Join(b.layout.Authority(), "melb", "machine-ca")
	b.issuer.Certificate, err = pki.ReadCertificate(path + ".pem")
	must(t, err)
	b.issuer.Signer, err = pki.ReadKey(path + ".key")
	must(t, err)
	b.open(issuance.Deployer, b.layout.Journal("melb", pki.ClassMachine))
	own := filepath.Join(t.TempDir(), "journal")
	must(t, issuance.Create(own))
	b.open(issuerName, own)

	// The issuer, as far as a recorder sees it.
	server := &http.Server{Handler: b, ErrorLog: nil}
	serving := tls.NewListener(socket, pki.ServerConfig(b.peer.Credentials, b.peer.Verifier))
	go server.Serve(serving)
	t.Cleanup(func() { server.Close() })
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bank) open(name, path string) {
	b.t.Helper()
	j, err := issuance.Open(issuance.Config{Path: path, Name: name, Key: b.issuer.Signer, Issuer: b.issuer.Certificate,
		Root: b.peer.Root, Verifier: b.peer.Verifier}, nil, time.Now())
	must(b.t, err)
	b.t.Cleanup(func() { j.Close() })
	b.journals[name] = j
}

// ServeHTTP answers with the issuer's journal.
func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseUint(r.URL.Query().Get("from"), 10, 53)
	if r.URL.Path != enrol.PathJournal || r.URL.Query().Get("name") != issuerName || err != nil {
		http.Error(w, "request", http.StatusBadRequest)
		return
	}
	lines, err := b.journals[issuerName].Read(from, 40, 1<<20)
	if err != nil {
		http.Error(w, "journal", http.StatusServiceUnavailable)
		return
	}
	for _, line := range lines {
		io.WriteString(w, string(line)+"\n")
	}
}

// grow issues n certificates each, and carries the bundle.
func (b *bank) grow(n int) {
	b.t.Helper()
	key, err := pki.NewKey(pki.RoleSensor)
	must(b.t, err)
	for range n {
		for _, j := range b.journals {
			b.made++
			id := pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: fmt.Sprint("web-", b.made)}
			cert, err := ca.IssueLeaf(b.issuer, id, key.Public(), ca.Names{}, 24*time.Hour, time.Now())
			must(b.t, err)
			_, err = j.Append(issuance.Record{Kind: issuance.Issuance, Certificate: cert, Cause: issuance.CauseRenewal}, time.Now())
			must(b.t, err)
		}
	}
	text, err := os.ReadFile(b.layout.Journal("melb", pki.ClassMachine))
	must(b.t, err)
	// In place, as a careless copy does it: what is half there is not imported.
	must(b.t, os.WriteFile(filepath.Join(b.layout.Bundle(b.recorder), records.FileMachines), text, 0o644))
}

// lines are everything that was issued, by journal.
func (b *bank) lines() [][]byte {
	b.t.Helper()
	var all [][]byte
	for _, j := range b.journals {
		lines, err := j.Read(0, 1<<20, 1<<30)
		must(b.t, err)
		all = append(all, lines...)
	}
	text, err := os.ReadFile(b.layout.Journal("melb", pki.ClassPerson))
	must(b.t, err)
	for line := range bytes.Lines(text) {
		all = append(all, bytes.TrimSuffix(line, []byte("\n")))
	}
	return all
}

// size is how many entries the log has. The state is written in place, so that
// half of it may be read while the recorder runs.
func (b *bank) size() int64 {
	b.t.Helper()
	var failure error
	for range 100 {
		raw, err := os.ReadFile(filepath.Join(log(b.layout, b.recorder), filepath.FromSlash(proof.TreeStateFile)))
		if err != nil {
			return 0
		}
		tree, err := proof.ParseTreeState(raw)
		if err == nil {
			return tree.N
		}
		failure = err
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatal(failure)
	return 0
}

func (b *bank) start() *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildRecords$", "-test.count=1")
	cmd.Env = append(os.Environ(), childConfig+"="+b.layout.Config(b.recorder))
	cmd.Stderr = os.Stderr
	must(b.t, cmd.Start())
	return cmd
}

// TestKilledWhileImporting kills a recorder (SIGKILL) while it imports what was
// issued, at ever other places, and starts it again while the journals grow: in
// the end each line is in the log once.
func TestKilledWhileImporting(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	kill := func(cmd *exec.Cmd, until func() bool) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for !until() && time.Now().Before(deadline) {
			time.Sleep(200 * time.Microsecond)
		}
		must(t, cmd.Process.Kill())
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.Exited() {
			t.Fatal("the recorder ended by itself")
		}
	}
	interrupted := 0
	for round := range 9 {
		b.grow(30)
		before := b.size()
		cmd := b.start()
		kill(cmd, func() bool {
			if b.size() <= before {
				return false
			}
			time.Sleep(time.Duration(round) * 5 * time.Millisecond)
			return true
		})
		if n := b.size(); n > before && n < int64(len(b.lines())) {
			interrupted++
		}
	}
	if interrupted == 0 {
		t.Error("no kill came while anything was left to import")
	}
	want := b.lines()
	kill(b.start(), func() bool { return b.size() >= int64(len(want)) && b.noted(int64(len(want))) })
	// The last start is asked to stop: that publishes the tree.
	p, err := Open(b.layout.Config(b.recorder), quiet())
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	time.AfterFunc(time.Second, stop)
	must(t, <-done)
	_, _, c, err := load(b.layout.Config(b.recorder), quiet())
	must(t, err)
	var got []string
	_, err = proof.Verify(t.Context(), proof.Config{FS: os.DirFS(c.Dir), Origin: c.Origin, VKey: c.Key.VKey()}, func(_ int64, raw []byte) error {
		l, err := leaf.Parse(raw)
		got = append(got, string(l.Data))
		return err
	})
	must(t, err)
	count := make(map[string]int)
	for _, line := range got {
		count[line]++
	}
	for _, line := range want {
		if n := count[string(line)]; n != 1 {
			t.Errorf("%d entries of one line", n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries for %d lines", len(got), len(want))
	}
	t.Logf("%d lines, %d of 9 kills in the middle", len(want), interrupted)
}

// noted reports whether the recorder has noted an import into that many entries.
func (b *bank) noted(n int64) bool {
	text, err := os.ReadFile(filepath.Join(b.layout.State(b.recorder), "imported"))
	return err == nil && strings.Contains(string(text), fmt.Sprintf(`{"size":%d,`, n))
}
