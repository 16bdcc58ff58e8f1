package provision

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee/internal/clocks"
	"levee/pki"
)

// Every part but the sensor shows its figures where it is told to, on loopback
// alone; by default, and in what provisioning writes, nowhere.
func TestMetricsOfEveryPart(t *testing.T) {
	dir, inv := t.TempDir(), inventory()
	s := &inv.Sites[0]
	s.Brokers[0].Listen = freePort(t)
	s.Sensors = []Sensor{{Name: "web-1"}}
	s.Controllers = []Controller{{Name: "lb-1", Pools: []Pool{{Server: "web-1", Listen: freePort(t)}}}}
	s.Monitors = []Monitor{{Name: "m1"}}
	s.Consoles, s.Guests = []Console{{Name: "c1", Listen: freePort(t)}}, nil
	ids := mustApply(t, dir, inv)
	l := Layout{Dir: dir}
	kernel, asked := clocks.NewKernel(slog.New(slog.DiscardHandler)), make(chan struct{})
	close(asked)
	kernel.Run(asked)
	_, answers := kernel.State()
	shown := 0
	for _, id := range ids {
		if id.Role.Class() == pki.ClassPerson {
			continue
		}
		file := l.Config(id)
		text := read(t, file)
		if strings.Contains(string(text), "metrics_listen") {
			t.Errorf("%s shows its figures unasked", id.Sender())
		}
		address := freePort(t)
		write(t, file, append(text[:len(text):len(text)], "metrics_listen: 0.0.0.0:0\n"...))
		if _, err := open(id.Role, file); err == nil || !strings.Contains(err.Error(), "metrics_listen") {
			t.Errorf("%s shows its figures to everybody: %v", id.Sender(), err)
		}
		write(t, file, append(text[:len(text):len(text)], "metrics_listen: "+address+"\n"...))
		part, err := open(id.Role, file)
		if id.Role == pki.RoleSensor {
			if err == nil || !strings.Contains(err.Error(), "metrics_listen") {
				t.Errorf("a sensor knows the key: %v", err)
			}
			continue
		}
		if err != nil { // what the refused attempt held was released
			t.Fatalf("%s: %v", id.Sender(), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- part.Run(ctx) }()
		body := scrape(t, address)
		for range 1000 { // it asks its kernel as it starts, if there is an answer
			if !answers || strings.Contains(body, "\nlevee_clock_synchronised ") {
				break
			}
			time.Sleep(10 * time.Millisecond)
			body = scrape(t, address)
		}
		if answers && !strings.Contains(body, "\nlevee_clock_synchronised ") {
			t.Errorf("%s does not ask its kernel", id.Sender())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", id.Sender(), err)
		}
		own := map[bool]string{true: `levee_broker_refused_total{reason="too_many"} 0`, false: "levee_connected 0"}[id.Role == pki.RoleBroker]
		for _, want := range []string{`levee_messages_refused_total{reason="stale"} 0`, "levee_messages_accepted_total 0", "levee_replay_capacity ",
			"levee_clock_doubted 0", "process_open_fds ", own} {
			if !strings.Contains(body, "\n"+want) {
				t.Errorf("%s: no %q in\n%s", id.Sender(), want, body)
			}
		}
		shown++
	}
	if shown != 5 {
		t.Errorf("%d parts show their figures", shown)
	}
}

func scrape(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	for range 3000 { // the part is starting
		r, err := client.Get("http://" + address + "/metrics")
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatalf("%d, %v", r.StatusCode, err)
		}
		return string(b)
	}
	t.Fatal("no figures")
	return ""
}
