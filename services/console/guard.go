package console

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// headers go with every answer. The page has no use for anything that they
// forbid: no frame, no form, no code or style but our own files, no string
// that becomes markup or code.
var headers = map[string]string{
	"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Permissions-Policy":           "camera=(), clipboard-read=(), display-capture=(), geolocation=(), hid=(), microphone=(), payment=(), serial=(), usb=()",
	"Cache-Control":                "no-store",
	// A program that had this port before may have left a service worker,
	// which would stand between the browser and us.
	"Clear-Site-Data": `"storage"`,
}

// guard stands before every handler. It keeps out what a hostile page in the
// same browser could send here: a name that was bound to our address (DNS
// rebinding) fails by its Host, a request from another origin by its Origin or
// by Sec-Fetch-Site, and everything that asks for a change by its method.
type guard struct {
	hosts map[string]bool
	next  http.Handler
}

func newGuard(address netip.AddrPort, next http.Handler) *guard {
	port := strconv.Itoa(int(address.Port()))
	hosts := map[string]bool{address.String(): true, net.JoinHostPort("localhost", port): true}
	if port == "80" { // browsers leave it out
		hosts["localhost"] = true
		if address.Addr().Is6() {
			hosts["["+address.Addr().String()+"]"] = true
		} else {
			hosts[address.Addr().String()] = true
		}
	}
	return &guard{hosts: hosts, next: next}
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
	switch {
	case !g.hosts[r.Host]:
		refuse(w, http.StatusMisdirectedRequest, "this console answers to its own address alone")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "this console changes nothing")
	case r.ContentLength != 0:
		refuse(w, http.StatusBadRequest, "a request to this console has no body")
	case !g.sameOrigin(r):
		refuse(w, http.StatusForbidden, "asked by another site's page")
	default:
		g.next.ServeHTTP(w, r)
	}
}

// sameOrigin reports whether our own page asks, or a person who typed the
// address. A link elsewhere may lead to the page itself: it shows nothing to
// the page that it came from. A handshake of a WebSocket has no Sec-Fetch-Site,
// but always an Origin. What is no browser sends neither, and can read without
// a trick.
func (g *guard) sameOrigin(r *http.Request) bool {
	for _, origin := range r.Header.Values("Origin") {
		if host, plain := strings.CutPrefix(origin, "http://"); !plain || !g.hosts[host] {
			return false
		}
	}
	switch site := r.Header.Values("Sec-Fetch-Site"); {
	case len(site) == 0:
		return true
	case len(site) > 1:
		return false // no browser says it twice
	case site[0] == "same-origin" || site[0] == "none":
		return true
	}
	return r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate"
}

// refuse answers with a line of text, and ends the connection: who is refused
// has nothing more to ask on it.
func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	w.Write([]byte(text + "\n")) // to a client that may be gone
}
