package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

// The points at which TestKilled kills a controller, in the order in which one
// command passes them.
const (
	beforeAdd     = "before the journal"
	afterAdd      = "after the journal"
	beforeApply   = "before the load balancer"
	afterApply    = "after the load balancer"
	beforeOutcome = "before the outcome is journalled"
	afterOutcome  = "after the outcome is journalled"
	nowhere       = "nowhere"
)

// TestKilled kills a controller (SIGKILL) at each point of acting on a command,
// starts another on the same journal, and repeats the command to it, as its
// sender would. It must be taken up once, be in force until its first end, and
// be answered.
func TestKilled(t *testing.T) {
	for _, point := range []string{beforeAdd, afterAdd, beforeApply, afterApply, beforeOutcome, afterOutcome} {
		t.Run(point, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "commands.db")
			cmd := enable(10 * time.Minute)
			if out, err := child(t, path, point, cmd); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("the first controller ended otherwise: %v\n%s", err, out)
			}
			seen := time.Now()
			out, err := child(t, path, nowhere, cmd)
			if err != nil {
				t.Fatalf("the second controller: %v\n%s", err, out)
			}
			accepted := 0
			if point == beforeAdd {
				accepted = 1
			}
			for _, want := range []string{
				fmt.Sprintf("in force: limit 5/10 until %d", until(cmd)),
				fmt.Sprintf("said: active until %d", until(cmd)),
				fmt.Sprintf("accepted: %d", accepted),
			} {
				if !slices.Contains(strings.Split(out, "\n"), want) {
					t.Errorf("missing %q in:\n%s", want, out)
				}
			}
			if strings.Contains(out, "said: failed") || strings.Contains(out, "said: refused") {
				t.Errorf("said otherwise:\n%s", out)
			}

			j, err := journal.Open(journal.Config{Path: path, Margin: DefaultSkew})
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			entries, err := j.Entries()
			if err != nil || len(entries) != 1 || !bytes.Contains(entries[0].Status, []byte(`"state":"active"`)) {
				t.Fatalf("the journal holds %+v, %v", entries, err)
			}
			if point != beforeAdd && entries[0].Seen.After(seen) {
				t.Error("the second controller took it up as if it were new")
			}
		})
	}
}

const (
	childJournal = "LEVEE_TEST_JOURNAL"
	childPoint   = "LEVEE_TEST_KILL_AT"
	childCommand = "LEVEE_TEST_COMMAND"
)

func child(t *testing.T, path, point string, command wire.Command) (string, error) {
	t.Helper()
	b, err := json.Marshal(command)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildActs$")
	cmd.Env = append(os.Environ(), childJournal+"="+path, childPoint+"="+point, childCommand+"="+string(b))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestChildActs is the process that TestKilled kills.
func TestChildActs(t *testing.T) {
	if os.Getenv(childJournal) == "" {
		return // only as a child of TestKilled
	}
	var cmd wire.Command
	if err := json.Unmarshal([]byte(os.Getenv(childCommand)), &cmd); err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(journal.Config{Path: os.Getenv(childJournal), Margin: DefaultSkew})
	if err != nil {
		t.Fatal(err)
	}
	m := mortal{Journal: j, fakeBalancer: newFakeBalancer("web-1")}
	said := make(chan struct{}, 10)
	c, err := New(Config{
		Site: "melb", Name: "lb-1", Automatic: testPolicy, Actuator: m, Journal: m, Log: slog.New(slog.DiscardHandler),
		Publish: func(_ wire.Topic, payload any) error {
			s := payload.(*wire.Status)
			fmt.Printf("said: %s until %d\n", s.State, s.Until)
			said <- struct{}{}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	c.Handle(mon1, cmd, time.Now())
	<-said
	for c.Stats().Accepted+c.Stats().Repeated == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	fmt.Printf("accepted: %d\n", c.Stats().Accepted)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// mortal is a journal and a load balancer that kill their process.
type mortal struct {
	Journal
	*fakeBalancer
}

func die(at string) {
	if os.Getenv(childPoint) == at {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (m mortal) Add(e journal.Entry) error {
	die(beforeAdd)
	defer die(afterAdd)
	return m.Journal.Add(e)
}

func (m mortal) Finish(key journal.Key, status []byte) error {
	die(beforeOutcome)
	defer die(afterOutcome)
	return m.Journal.Finish(key, status)
}

func (m mortal) Apply(ctx context.Context, pool string, want Wanted) error {
	if want.RateLimit == nil {
		return m.fakeBalancer.Apply(ctx, pool, want)
	}
	die(beforeApply)
	defer die(afterApply)
	fmt.Printf("in force: %s until %d\n", describe(want), want.RateLimit.Until.UnixMilli())
	return m.fakeBalancer.Apply(ctx, pool, want)
}
