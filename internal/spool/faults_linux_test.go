package spool

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"levee/envelope"
	"levee/test/faults"
)

const childIn = "LEVEE_TEST_SPOOL_IN"

// TestWriteHere is the process that the faults are injected into: it finds what
// an earlier start left, adds two ranges, has some of each released, and ends.
func TestWriteHere(t *testing.T) {
	dir := os.Getenv(childIn)
	if dir == "" {
		t.Skip("only as a child")
	}
	runtime.LockOSThread()
	s := open(t, dir, testBoot+1)
	s.add(t, 1, 40, 100)
	s.stored()
	s.Release(testBoot, 5)
	s.Release(testBoot+1, 2) // so that the next range begins a file
	s.add(t, 41, 45, 0)
	s.stored()
	s.Release(testBoot, 9)
	s.Release(testBoot+1, 42)
	s.stored()
	s.write(true)
	if told := os.NewFile(faults.Told, "told"); told != nil {
		_, _ = told.WriteString("kept\n")
	}
}

// before returns a directory with the 9 messages of an earlier start.
func before(t *testing.T) (string, *exec.Cmd) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "outbox")
	s := open(t, dir, testBoot)
	s.add(t, 1, 9, 0)
	s.write(true)
	s.close(s.newest())
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriteHere$")
	cmd.Env = append(os.Environ(), childIn+"="+dir)
	return dir, cmd
}

// sound wants what any fault may leave: of each boot a piece without a gap, of
// the earlier one all or none, and of this one nothing that is lost in front of
// what is there, but for the 40 that were released.
func sound(t *testing.T, after, dir string, kept bool) {
	t.Helper()
	log := new(logBuffer)
	s := open(t, dir, testBoot+2, logsTo(log))
	of := make(map[uint64][]envelope.Nonce)
	for _, n := range s.rest(t) {
		of[n.Boot] = append(of[n.Boot], n)
	}
	if old := of[testBoot]; len(old) > 0 {
		wants(t, after, old, testBoot, 1, 9)
	}
	if own := of[testBoot+1]; len(own) > 0 {
		if own[0].Seq != 1 && own[0].Seq != 41 {
			t.Errorf("%s: it begins with %v", after, own[0])
		}
		wants(t, after, own, testBoot+1, own[0].Seq, own[0].Seq+uint64(len(own))-1)
	}
	if own := of[testBoot+1]; kept && (len(own) == 0 || own[len(own)-1].Seq != 45) {
		t.Errorf("%s: messages are missing of %v", after, own)
	}
	if log.count("are lost") != 0 {
		t.Errorf("%s: %s", after, log.text.String())
	}
}

// Whatever goes wrong with whichever operation, the next start finds messages
// whole and in order, and never that a file is damaged.
func TestFaults(t *testing.T) {
	faults.Each(t, map[string]int{"openat": 5, "pwrite64": 1, "fsync": 1, "close": 5, "unlinkat": 1}, func(t *testing.T) (*exec.Cmd, func(string)) {
		dir, cmd := before(t)
		return cmd, func(after string) { sound(t, after, dir, false) }
	})
}

// What was synced outlives a loss of power, and what was not is missing at the
// end alone.
func TestPowerLoss(t *testing.T) {
	dir, cmd := before(t)
	faults.PowerLoss(t, dir, cmd, func(after, dir string, told bool) { sound(t, after, dir, told) })
}
