package balancer

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestRateLimitCannotBeEscapedByHeaders(t *testing.T) {
	b := start(t)
	client := clientFrom(t, "127.0.0.1")
	apply(t, b, limit(0.01, 1, time.Hour))
	backends(t, client, b, 1)
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "True-Client-Ip"} {
		r, err := http.NewRequest("GET", "http://"+b.Addr(web).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(name, "192.0.2.1")
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusTooManyRequests {
			t.Errorf("%s escapes the limit: status %d", name, response.StatusCode)
		}
	}
}

func TestFailingBackends(t *testing.T) {
	b := start(t)
	client := clientFrom(t, "127.0.0.1")
	stopBackend := func(i int) {
		bk := b.pool(web).rotation.backends[i]
		bk.server.Close()
		b.pool(web).transport.CloseIdleConnections()
	}
	stopBackend(0)
	post := func() int {
		r, err := client.Post("http://"+b.Addr(web).String(), "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	for range 6 { // even with a body, because none of it was sent
		if status := post(); status != http.StatusOK {
			t.Fatalf("status %d with one backend left", status)
		}
	}
	stopBackend(1)
	if status := post(); status != http.StatusBadGateway {
		t.Errorf("status %d with no backend left, want 502", status)
	}
	// The pool's listener lives on, and so does scaling.
	apply(t, b, scaled(3, time.Hour))
	if got := backends(t, client, b, 3); len(got) != 1 {
		t.Errorf("%v answered, want the third backend", got)
	}
}

func TestFailureAfterSendingIsNotRepeated(t *testing.T) {
	b := start(t)
	var received atomic.Int32
	for _, bk := range b.pool(web).rotation.backends {
		bk.server.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			received.Add(1)
			panic(http.ErrAbortHandler)
		})
	}
	r, err := clientFrom(t, "127.0.0.1").Post("http://"+b.Addr(web).String(), "text/plain", strings.NewReader("pay"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusBadGateway || received.Load() != 1 {
		t.Errorf("status %d, received %d times, want 502 and once", r.StatusCode, received.Load())
	}
}

func TestForwardedHeaders(t *testing.T) {
	b := start(t, Pool{Name: web, Listen: "127.0.0.1:0", Servers: 1})
	received := make(chan *http.Request, 1)
	b.pool(web).rotation.backends[0].server.Handler = http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) { received <- r })
	r, err := http.NewRequest("GET", "http://"+b.Addr(web).String()+"/path", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "bank.example"
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("X-Forwarded-Proto", "https")
	r.Header.Set("Forwarded", "for=192.0.2.1")
	r.Header.Set("Connection", "upgrade")
	r.Header.Set("Upgrade", "websocket")
	response, err := clientFrom(t, "127.0.0.2").Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	got := <-received
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.2", "X-Forwarded-Host": "bank.example", "X-Forwarded-Proto": "http",
		"Forwarded": "", "Upgrade": "",
	} {
		if value := got.Header.Get(name); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if got.Host != "bank.example" {
		t.Errorf("host %q", got.Host)
	}
}

// TestNoOpenProxy asks in every way that HTTP has for another server.
func TestNoOpenProxy(t *testing.T) {
	b := start(t)
	victim, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	reached := make(chan struct{}, 10)
	go func() {
		for {
			conn, err := victim.Accept()
			if err != nil {
				return
			}
			conn.Close()
			reached <- struct{}{}
		}
	}()
	other := victim.Addr().String()
	for _, test := range []struct {
		request string
		status  int
	}{
		{"GET http://" + other + "/ HTTP/1.1\r\nHost: " + other + "\r\n\r\n", 200},
		{"GET / HTTP/1.1\r\nHost: " + other + "\r\n\r\n", 200},
		{"GET //" + other + "/ HTTP/1.1\r\nHost: a\r\n\r\n", 200},
		{"CONNECT " + other + " HTTP/1.1\r\nHost: " + other + "\r\n\r\n", 405},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n", 431},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + strconv.Itoa(maxBody+1) + "\r\n\r\n" + strings.Repeat("x", maxBody+1), 413},
	} {
		name, _, _ := strings.Cut(test.request, "\r\n")
		conn, err := net.Dial("tcp", b.Addr(web).String())
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, test.request) // it may be refused before its end
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if r.StatusCode != test.status {
			t.Errorf("%s: status %d, want %d", name, r.StatusCode, test.status)
		}
		conn.Close()
	}
	select {
	case <-reached:
		t.Error("another server was reached")
	default:
	}
}
