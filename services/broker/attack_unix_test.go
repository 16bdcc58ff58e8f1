//go:build unix

package broker

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"levee/test/rawmqtt"
)

// P8: a process without file descriptors accepts nobody, and accepts again when
// it has some.
func TestP8DescriptorsExhaustedAndBack(t *testing.T) {
	s := open(t)
	bystander := s.connect(monitor)
	cert := s.bank.credential(web1)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 512
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	release := func() {
		for _, f := range files {
			_ = f.Close()
		}
		files = nil
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	}
	defer release()
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatal("no descriptor was free")
	}
	// One descriptor is the client's own; the broker has none for its end.
	_ = files[0].Close()
	files = files[1:]
	type dialled struct {
		c   *rawmqtt.Client
		err error
	}
	waiting := make(chan dialled, 1)
	go func() {
		c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("melb", cert))
		waiting <- dialled{c, err}
	}()
	for s.broker.counters.acceptErrs.Load() == 0 {
		s.ping(bystander) // who is in, stays in
	}
	release()
	d := <-waiting
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer d.c.Close()
	if code, err := d.c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Errorf("code %d, %v", code, err)
	}
}
