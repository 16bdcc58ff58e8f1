package console

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestRefusals(t *testing.T) {
	s := serve(t, new(linked))
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	from := func(site, mode string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", site)
			r.Header.Set("Sec-Fetch-Mode", mode)
		}
	}
	origin := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Origin"] = values }
	}
	for _, test := range []struct {
		name, method, path string
		change             func(*http.Request)
		want               int
	}{
		{"the page", "GET", "/", nil, 200},
		{"its header alone", "HEAD", "/", nil, 200},
		{"a module", "GET", "/js/main.js", from("same-origin", "cors"), 200},
		{"localhost", "GET", "/", host("localhost:" + port), 200},
		{"an address typed in", "GET", "/", from("none", "navigate"), 200},
		{"a link from elsewhere", "GET", "/", from("cross-site", "navigate"), 200},

		{"a name bound to our address", "GET", "/", host("attacker.example:" + port), 421},
		{"no port", "GET", "/", host("127.0.0.1"), 421},
		{"another port", "GET", "/", host("127.0.0.1:1"), 421},
		{"another loopback address", "GET", "/", host("127.0.0.2:" + port), 421},
		{"a name below localhost", "GET", "/", host("x.localhost:" + port), 421},
		{"the stream for a rebound name", "GET", "/events", host("attacker.example:" + port), 421},
		{"the page inside another's script", "GET", "/", from("cross-site", "cors"), 403},
		{"the stream for another site", "GET", "/events", from("cross-site", "cors"), 403},
		{"the stream for another port", "GET", "/events", from("same-site", "cors"), 403},
		{"a link from elsewhere to the stream", "GET", "/events", from("cross-site", "navigate"), 403},
		{"a module for another site", "GET", "/js/main.js", from("cross-site", "no-cors"), 403},
		{"POST", "POST", "/", nil, 405},
		{"PUT", "PUT", "/events", nil, 405},
		{"DELETE", "DELETE", "/", nil, 405},
		{"OPTIONS", "OPTIONS", "/", nil, 405},
		{"TRACE", "TRACE", "/", nil, 405},
		{"our own origin", "GET", "/events", origin("http://" + s.address), 200},
		{"our own origin by name", "GET", "/js/main.js", origin("http://localhost:" + port), 200},
		{"another's WebSocket", "GET", "/events", origin("https://attacker.example"), 403},
		{"our address by another scheme", "GET", "/events", origin("https://" + s.address), 403},
		{"another port of ours", "GET", "/events", origin("http://127.0.0.1:1"), 403},
		{"an origin that hides", "GET", "/", origin("null"), 403},
		{"no origin's name", "GET", "/", origin(""), 403},
		{"two origins", "GET", "/", origin("http://"+s.address, "http://attacker.example"), 403},
		{"said twice", "GET", "/events", func(r *http.Request) { r.Header["Sec-Fetch-Site"] = []string{"same-origin", "cross-site"} }, 403},
		{"a body", "GET", "/", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 }, 400},
		{"a body in chunks", "GET", "/", func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), -1 }, 400},
		{"what is not there", "GET", "/state", nil, 404},
		{"a directory", "GET", "/js/", nil, 404},
		{"the licence, which is no part of the page", "GET", "/vendor/LICENSE", nil, 404},
		{"the source", "GET", "/web/index.html", nil, 404},
		{"an escape", "GET", "/js/%2e%2e/%2e%2e/board.go", nil, 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, text := s.ask(t, test.method, test.path, test.change)
			if response.StatusCode != test.want {
				t.Errorf("answered %d %q, not %d", response.StatusCode, text, test.want)
			}
			for name, value := range headers {
				if got := response.Header.Get(name); got != value {
					t.Errorf("%s: %q", name, got)
				}
			}
			if response.Header.Get("Set-Cookie") != "" || response.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Error("a cookie, or leave for others to read")
			}
			if test.want != 200 && !strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("a refusal is %s", response.Header.Get("Content-Type"))
			}
		})
	}
}

// OPTIONS * reaches no handler by itself: the server would answer it.
func TestGeneralOptionsAreRefused(t *testing.T) {
	s := serve(t, new(linked))
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("OPTIONS * HTTP/1.1\r\nHost: " + s.address + "\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("answered %d", response.StatusCode)
	}
}

// The policy is what stands between a mistake of ours and a script of theirs:
// it allows our own files and nothing else.
func TestPolicyIsStrict(t *testing.T) {
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store", "X-Frame-Options": "DENY", "Clear-Site-Data": `"storage"`} {
		if headers[name] != want {
			t.Errorf("%s: %q, not %q", name, headers[name], want)
		}
	}
	if !strings.Contains(headers["Permissions-Policy"], "clipboard-read=()") {
		t.Errorf("Permissions-Policy: %q", headers["Permissions-Policy"])
	}
	policy := headers["Content-Security-Policy"]
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
		"frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"} {
		if !strings.Contains(policy+";", want+";") {
			t.Errorf("the policy lacks %q", want)
		}
	}
	for _, never := range []string{"unsafe", "*", "data:", "blob:", "http"} {
		if strings.Contains(policy, never) {
			t.Errorf("the policy has %q", never)
		}
	}
}

func TestHostsByAddress(t *testing.T) {
	for address, want := range map[string][]string{
		"127.0.0.1:8090": {"127.0.0.1:8090", "localhost:8090"},
		"[::1]:8090":     {"[::1]:8090", "localhost:8090"},
		"127.0.0.1:80":   {"127.0.0.1:80", "localhost:80", "127.0.0.1", "localhost"},
		"[::1]:80":       {"[::1]:80", "localhost:80", "[::1]", "localhost"},
	} {
		g := newGuard(netip.MustParseAddrPort(address), nil)
		if len(g.hosts) != len(want) {
			t.Errorf("%s answers to %v", address, g.hosts)
		}
		for _, h := range want {
			if !g.hosts[h] {
				t.Errorf("%s does not answer to %s", address, h)
			}
		}
	}
}
