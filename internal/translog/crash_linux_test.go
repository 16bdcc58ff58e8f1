package translog

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashRoot tells the test binary that it is to be the process that is killed.
const crashRoot = "TRANSLOG_TEST_CRASH_ROOT"

func TestMain(m *testing.M) {
	RouteLibraryLogs(slog.New(libraryLines))
	if root := os.Getenv(crashRoot); root != "" {
		if err := appendUntilKilled(root); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// appendUntilKilled prints "index entry" for every entry that was acknowledged.
func appendUntilKilled(root string) error {
	s := siteAt(&testing.T{}, root)
	s.cfg.CheckpointInterval = 20 * time.Millisecond
	s.cfg.BatchSize = 64
	ctx := context.Background()
	l, err := Open(ctx, s.cfg)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				batch := entries(fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i), 1+i%20)
				indexes, err := l.AppendAll(ctx, batch)
				if err != nil {
					failed <- err
					return
				}
				var lines strings.Builder
				for j, index := range indexes {
					fmt.Fprintf(&lines, "%d %s\n", index, batch[j])
				}
				fmt.Print(lines.String()) // one write
			}
		}()
	}
	return <-failed
}

func TestKilledUnderLoad(t *testing.T) {
	s := newSite(t)
	s.create(t)
	acknowledged := map[int]string{}
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashRoot+"="+s.root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(acknowledged)
		scanner := bufio.NewScanner(out)
		killed := false
		for scanner.Scan() {
			at, entry, _ := strings.Cut(scanner.Text(), " ")
			index, err := strconv.Atoi(at)
			if err != nil {
				t.Fatalf("the child says %q", scanner.Text())
			}
			if was, ok := acknowledged[index]; ok {
				t.Fatalf("entry %d was acknowledged twice: %q, %q", index, was, entry)
			}
			acknowledged[index] = entry
			// Each round at another place of its own.
			if !killed && len(acknowledged)-before > 150+round*137 {
				killed = true
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("the child was not killed: %v", err)
		}
		l := s.open(t)
		s.close(t, l)
		got := s.verify(t)
		for index, entry := range acknowledged {
			if index >= len(got) || got[index] != entry {
				t.Fatalf("round %d: acknowledged entry %d %q is not there (%d entries)", round, index, entry, len(got))
			}
		}
	}
	t.Logf("%d entries acknowledged", len(acknowledged))
}
