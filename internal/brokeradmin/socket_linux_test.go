package brokeradmin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/internal/wire"
)

const helper = "LEVEE_TEST_SOCKET"

// TestMain asks at a socket instead, where a test runs this as another user.
func TestMain(m *testing.M) {
	if path := os.Getenv(helper); path != "" {
		_, err := Client{Path: path}.Kick(context.Background(), "melb/sensor/web-1")
		fmt.Println(err)
		return
	}
	goleak.VerifyTestMain(m)
}

// fake is a broker with sessions to tell of.
type fake struct {
	mu       sync.Mutex
	sessions []Session
	bans     []Ban
	orders   []string
}

func (f *fake) Sessions(identity string) (found []Session) {
	for _, s := range f.sessions {
		if identity == "" || s.Identity == identity {
			found = append(found, s)
		}
	}
	return found
}

func (f *fake) Bans() []Ban { return f.bans }

func (f *fake) note(order string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, order)
}

func (f *fake) Kick(identity string) int {
	f.note("kick " + identity)
	return len(f.Sessions(identity))
}

func (f *fake) Ban(who Target, length time.Duration) (int, error) {
	f.note(fmt.Sprintf("ban %s %s", who, length))
	if who.Identity == "perth/sensor/web-1" {
		return 0, errors.New("not of this site")
	}
	if who.Identity == "" {
		return 0, nil
	}
	return len(f.Sessions(who.Identity)), nil
}

func (f *fake) Unban(who Target) bool {
	f.note("unban " + who.String())
	return who.Identity != "melb/sensor/web-9"
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// served runs a server until the test ends.
func served(t *testing.T, f *fake, change ...func(*Server)) (path string, log *logBuffer) {
	t.Helper()
	path, log, _ = stoppable(t, f, change...)
	return path, log
}

// stoppable is served, with what stops it.
func stoppable(t *testing.T, f *fake, change ...func(*Server)) (path string, log *logBuffer, stop func()) {
	t.Helper()
	log = &logBuffer{}
	path = filepath.Join(directory(t), "admin.sock")
	s, err := Open(Config{Path: path, Broker: f, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Around(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	t.Cleanup(stop)
	return path, log, stop
}

// directory is one of ours that others may not write to.
func directory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOrders(t *testing.T) {
	web1 := Session{Identity: "melb/sensor/web-1", Client: "melb_sensor_web-1", Site: "melb", Remote: "192.0.2.1:999", Since: time.Unix(1, 0).UTC(), Filters: []string{"public/#"}, FiltersHeld: 1, Messages: 7, Bytes: 8, HeldBackMS: 9, Queued: 10}
	ban := Ban{Who: "melb/sensor/web-2", Until: time.Unix(2, 0).UTC(), Reason: "it connects too often"}
	f := &fake{sessions: []Session{{Identity: "melb/sensor/web-3"}, web1}, bans: []Ban{ban, {Who: "192.0.2.7/32"}}}
	path, log := served(t, f)
	c, ctx := Client{Path: path}, t.Context()
	sessions, bans, err := c.Sessions(ctx, "")
	if err != nil || len(sessions) != 2 || fmt.Sprint(sessions[0]) != fmt.Sprint(web1) || sessions[1].Filters == nil || len(bans) != 2 || bans[1] != ban {
		t.Errorf("%v, %v, %v", sessions, bans, err)
	}
	if sessions, bans, err = c.Sessions(ctx, "melb/sensor/web-2"); err != nil || len(sessions) != 0 || len(bans) != 1 || bans[0] != ban {
		t.Errorf("%v, %v, %v", sessions, bans, err)
	}
	if n, err := c.Kick(ctx, "melb/sensor/web-1"); n != 1 || err != nil {
		t.Errorf("kick: %d, %v", n, err)
	}
	if n, err := c.Ban(ctx, Target{Identity: "melb/sensor/web-1"}, 10*time.Minute); n != 1 || err != nil {
		t.Errorf("ban: %d, %v", n, err)
	}
	if n, err := c.Ban(ctx, Target{Address: netip.MustParseAddr("192.0.2.7")}, LongestBan); n != 0 || err != nil {
		t.Errorf("ban: %d, %v", n, err)
	}
	if err := c.Unban(ctx, Target{Identity: "melb/sensor/web-1"}); err != nil {
		t.Error(err)
	}
	var refused *Refused
	if _, err := c.Kick(ctx, "melb/sensor/web-9"); !errors.As(err, &refused) || refused.Reason != "melb/sensor/web-9 has no session here" {
		t.Error(err)
	}
	if err := c.Unban(ctx, Target{Identity: "melb/sensor/web-9"}); !errors.As(err, &refused) {
		t.Error(err)
	}
	if _, err := c.Ban(ctx, Target{Identity: "perth/sensor/web-1"}, time.Minute); !errors.As(err, &refused) {
		t.Error(err)
	}
	want := "[kick melb/sensor/web-1 ban melb/sensor/web-1 10m0s ban 192.0.2.7 24h0m0s unban melb/sensor/web-1 kick melb/sensor/web-9 unban melb/sensor/web-9 ban perth/sensor/web-1 1m0s]"
	if got := fmt.Sprint(f.orders); got != want {
		t.Errorf("orders %s", got)
	}
	text := log.String()
	for _, line := range []string{
		fmt.Sprintf(`level=WARN msg="an administrator's order" order=kick target=melb/sensor/web-1 uid=%d sessions_ended=1`, os.Geteuid()),
		fmt.Sprintf(`order=ban target=192.0.2.7 uid=%d for=24h0m0s sessions_ended=0`, os.Geteuid()),
		`msg="an administrator's order came to nothing" order=unban target=melb/sensor/web-9`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the log lacks %s:\n%s", line, text)
		}
	}
	if strings.Contains(text, "order=sessions") {
		t.Error("who looks is logged")
	}
}

// What is not one of the requests reaches no broker.
func TestRequestsAreStrict(t *testing.T) {
	f := &fake{}
	path, _ := served(t, f)
	for _, text := range []string{
		``, `{}`, `[]`, `null`, `{"order":"kick"}`, `{"order":"kick","target":""}`, `{"order":"kick","target":"192.0.2.1"}`,
		`{"order":"sessions","target":"192.0.2.1"}`, `{"order":"sessions","seconds":1}`, `{"order":"sessions","target":"melb/sensor/web-1","seconds":1}`,
		`{"order":"Kick","target":"melb/sensor/web-1"}`, `{"order":"stop","target":"melb/sensor/web-1"}`,
		`{"ORDER":"kick","target":"melb/sensor/web-1"}`, `{"order":"kick","order":"kick","target":"melb/sensor/web-1"}`,
		`{"order":"kick","target":"melb/sensor/web-1","more":1}`, `{"order":"kick","target":"melb/sensor/web-1","seconds":1}`,
		`{"order":"ban","target":"melb/sensor/web-1"}`, `{"order":"ban","target":"melb/sensor/web-1","seconds":-1}`,
		`{"order":"ban","target":"melb/sensor/web-1","seconds":86401}`, `{"order":"ban","target":"melb/sensor/web-1","seconds":1.5}`,
		`{"order":"ban","target":"192.0.2.0/24","seconds":60}`, `{"order":"unban","target":"melb/sensor/web-1","seconds":60}`,
		`{"order": "kick","target":"melb/sensor/web-1"}`,
	} {
		conn, err := dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(text + "\n")); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), `{"refused":"`) || strings.Count(string(answer), "\n") != 1 {
			t.Errorf("%s: %s, %v", text, answer, err)
		}
		conn.Close()
	}
	// Too long for a request: no answer at all.
	conn, err := dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(`{"order":"kick","target":"` + strings.Repeat("x", maxRequest) + `"}` + "\n"))
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("%s", answer)
	}
	if len(f.orders) > 0 {
		t.Errorf("orders %v", f.orders)
	}
}

// Ten thousand sessions are many lines and no trouble; an answer that breaks off
// is none.
func TestManySessions(t *testing.T) {
	f := &fake{}
	for i := range 10_000 {
		f.sessions = append(f.sessions, Session{Identity: fmt.Sprintf("melb/sensor/web-%d", i), Filters: make([]string, 300), FiltersHeld: 300})
	}
	path, _ := served(t, f)
	sessions, _, err := Client{Path: path}.Sessions(t.Context(), "")
	if err != nil || len(sessions) != 10_000 {
		t.Fatalf("%d, %v", len(sessions), err)
	}
	if s := sessions[0]; len(s.Filters) != maxFilters || s.FiltersHeld != 300 {
		t.Errorf("%d filters of %d", len(s.Filters), s.FiltersHeld)
	}
}

// The kernel says who asks. Others are not answered, whatever the file's mode.
func TestOthersAreRefused(t *testing.T) {
	f := &fake{}
	path, log := served(t, f, func(s *Server) { s.peer = func(*net.UnixConn) (uint32, error) { return uint32(os.Geteuid()) + 1, nil } })
	if _, err := (Client{Path: path}).Kick(t.Context(), "melb/sensor/web-1"); err == nil || !strings.Contains(err.Error(), "no whole answer") {
		t.Errorf("%v", err)
	}
	if len(f.orders) > 0 || !strings.Contains(log.String(), "neither root nor the broker's own user") {
		t.Errorf("orders %v\n%s", f.orders, log)
	}
}

func TestPeerThatIsUnknownIsRefused(t *testing.T) {
	f := &fake{}
	path, _ := served(t, f, func(s *Server) { s.peer = func(*net.UnixConn) (uint32, error) { return 0, errors.New("unknown") } })
	if _, err := (Client{Path: path}).Kick(t.Context(), "melb/sensor/web-1"); err == nil || len(f.orders) > 0 {
		t.Errorf("%v, %v", err, f.orders)
	}
}

// The same with a process of another user, which takes root to start: even
// where somebody has opened directory and socket to everybody.
func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("starting a process as another user takes root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	path, log := served(t, f)
	ask := func() string {
		text, err := os.ReadFile(self) // go test's directory is closed to others
		if err != nil {
			t.Fatal(err)
		}
		open, err := os.MkdirTemp("/tmp", "levee-*")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(open)
		program := filepath.Join(open, "ask")
		if err := errors.Join(os.Chmod(open, 0o755), os.WriteFile(program, text, 0o755)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		cmd.Dir, cmd.Env = "/", []string{helper + "=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := ask(); !strings.Contains(out, "permission denied") {
		t.Errorf("%s", out)
	}
	for dir := filepath.Dir(path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out := ask(); !strings.Contains(out, "permission denied") { // the file's own mode
		t.Errorf("%s", out)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := ask(); !strings.Contains(out, "no whole answer") {
		t.Errorf("%s", out)
	}
	if len(f.orders) > 0 || !strings.Contains(log.String(), "uid=65534") {
		t.Errorf("orders %v\n%s", f.orders, log)
	}
}

func openAt(path string) (*Server, error) {
	return Open(Config{Path: path, Broker: &fake{}, Log: slog.New(slog.DiscardHandler)})
}

// The socket is ours alone from its first moment, is replaced when nobody
// answers at it, and is never taken from one who does.
func TestSocketFile(t *testing.T) {
	dir := directory(t)
	path := filepath.Join(dir, "admin.sock")
	first, err := openAt(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := openAt(path); err == nil || !strings.Contains(err.Error(), "is answered by a running broker") {
		t.Errorf("a live socket: %v", err)
	}
	// As a killed broker leaves it: closed, and the file there.
	if err := first.socket.UnixListener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := (Client{Path: path}).Kick(t.Context(), "melb/sensor/web-1"); !errors.Is(err, syscall.ECONNREFUSED) || !notRunning(err) {
		t.Errorf("%v", err)
	}
	second, err := openAt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, path := range []string{path, filepath.Join(filepath.Dir(path), "never", "admin.sock")} {
		if _, err := (Client{Path: path}).Kick(t.Context(), "melb/sensor/web-1"); !errors.Is(err, fs.ErrNotExist) || !notRunning(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// notRunning reports whether an error says so, and names no descriptor of ours.
func notRunning(err error) bool {
	return strings.Contains(err.Error(), "the broker is not running") && !strings.Contains(err.Error(), "/proc/")
}

func TestSocketIsRefused(t *testing.T) {
	dir := directory(t)
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o770), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600), os.Symlink("/dev/null", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(open, "admin.sock"):            "others may write to it",
		filepath.Join(dir, "file"):                   "is no socket",
		filepath.Join(dir, "link"):                   "is no socket",
		filepath.Join(dir, "nowhere", "admin.sock"):  "no such file",
		filepath.Join(dir, strings.Repeat("x", 100)): "the name of a socket is at most",
	} {
		s, err := openAt(path)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(open, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(open, 0o700)
		if _, err := openAt(filepath.Join(open, "admin.sock")); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Errorf("%v", err)
		}
	}
}

// A directory whose path no socket may have is as good as any.
func TestLongPath(t *testing.T) {
	dir := directory(t)
	for range 3 {
		dir = filepath.Join(dir, strings.Repeat("d", 100))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openAt(filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Who says nothing keeps nobody out for long, and a stop waits for nobody.
func TestSilentAdministrators(t *testing.T) {
	f := &fake{sessions: []Session{{Identity: "melb/sensor/web-1"}}}
	path, _, stop := stoppable(t, f)
	for range 2 * maxConnections {
		conn, err := dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	if _, err := (Client{Path: path}).Kick(t.Context(), "melb/sensor/web-1"); err == nil {
		t.Error("answered beyond the bound")
	}
	// Those who are silent would each hold up the stop for all their patience.
	begin := time.Now()
	stop()
	if took := time.Since(begin); took >= patience/2 {
		t.Errorf("the stop waited %s", took)
	}
}

func TestNothingListensUnlessConfigured(t *testing.T) {
	s, err := openAt("")
	if s != nil || err != nil {
		t.Fatal(s, err)
	}
	ran := false
	if err := s.Around(t.Context(), func(context.Context) error { ran = true; return nil }); err != nil || !ran || s.Close() != nil {
		t.Error(err, ran)
	}
}

func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"melb/sensor/web-1": "melb/sensor/web-1", "melb/operator/ann": "melb/operator/ann", "192.0.2.7": "192.0.2.7", "192.0.2.7/32": "192.0.2.7",
		"::ffff:192.0.2.7": "192.0.2.7", "2001:db8::1": "2001:db8::1", "2001:db8::/64": "2001:db8::",
		"": "", "melb": "", "melb/sensor": "", "melb/sensor/web-1/1": "", "public/sensor/web-1": "", "melb/root/web-1": "", "melb/sensor/WEB": "", "melb/sensor/": "",
		"192.0.2.0/24": "", "192.0.2.7/64": "", "2001:db8::/48": "", "2001:db8::/32": "", "192.0.2.7/": "", "fe80::1%eth0": "", "0.0.0.0": "", "::": "", "*": "", "melb/sensor/web-1\n": "",
	} {
		got, err := ParseTarget(text)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// What a broker answers is believed no further than the protocol goes.
func TestAnswers(t *testing.T) {
	for _, text := range []string{``, `{}`, `null`, `{"done":null}`, `{"done":{"ended":1},"refused":"x"}`, `{"session":{"identity":1}}`, `{"else":{}}`, `{"refused":""}`, `{"done":{"ended":1,"more":2}}`} {
		if l, err := parseLine([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, l)
		}
	}
}

// An answer that breaks off is none, and one of more lines than there can be
// sessions is refused, whoever answers.
func TestAnswerWithoutItsEnd(t *testing.T) {
	session := `{"session":{"identity":"melb/sensor/web-1","client":"","site":"melb","remote":"","since":"2026-11-22T03:00:00Z","filters":[],"filters_held":0,"messages":0,"bytes":0,"held_back_ms":0,"queued_bytes":0}}` + "\n"
	for text, whole := range map[string]bool{
		session + `{"done":{"ended":0}}` + "\n": true,
		session:                                 false,
		session + `{"done":{"ended":0}}`:        false,
		session + session[:40]:                  false,
		strings.Repeat(" ", maxLine) + "\n" + `{"done":{"ended":0}}` + "\n": false,
		"": false,
	} {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write([]byte(text))
			there.Close()
		}()
		_, err := readAnswer(bufio.NewReaderSize(here, maxLine), here, func(line) error { return nil })
		if (err == nil) != whole {
			t.Errorf("%.60s: %v", text, err)
		}
		here.Close()
	}
	here, there := net.Pipe()
	defer here.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer there.Close()
		for many := []byte(strings.Repeat(`{"ban":{"who":"a","until":"2026-11-22T03:00:00Z","reason":""}}`+"\n", 1024)); ; {
			if _, err := there.Write(many); err != nil {
				return
			}
		}
	}()
	if _, err := readAnswer(bufio.NewReaderSize(here, maxLine), here, func(line) error { return nil }); !errors.Is(err, errAnswer) {
		t.Errorf("an endless answer: %v", err)
	}
	here.Close()
	<-ended
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{`{"order":"sessions"}`, `{"order":"kick","target":"melb/sensor/web-1"}`, `{"order":"ban","target":"2001:db8::/64","seconds":600}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r request
		if wire.DecodeExact([]byte(text), &r) != nil {
			return
		}
		who, err := r.check()
		if err != nil {
			if who != (Target{}) {
				t.Errorf("%q: %v and %v", text, who, err)
			}
			return
		}
		if r.Order == orderSessions && who == (Target{}) {
			return
		}
		again, err := ParseTarget(who.String())
		if err != nil || again != who {
			t.Errorf("%q: %v became %v, %v", text, who, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"session":{"identity":"melb/sensor/web-1","client":"","site":"melb","remote":"","since":"2026-11-22T03:00:00Z","filters":[],"filters_held":0,"messages":0,"bytes":0,"held_back_ms":0,"queued_bytes":0}}`)
	f.Add(`{"done":{"ended":1}}`)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseLine([]byte(text))
		if err != nil && l != (line{}) {
			t.Errorf("%q: %v and %v", text, l, err)
		}
	})
}
