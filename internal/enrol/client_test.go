package enrol

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A refusal says for how long: weeks, if a renewal would end before what it
// renews. What is no number of seconds says nothing.
func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "1": time.Second, "1728000": 20 * 24 * time.Hour, "4294967295": 4294967295 * time.Second,
		"4294967296": 0, "-1": 0, "1.5": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set("Retry-After", header)
			}
			http.Error(w, "profile: not now", http.StatusServiceUnavailable)
		}))
		_, _, err := (&Client{base: server.URL, http: server.Client()}).Reenroll(t.Context(), nil)
		server.Close()
		var refused *Refused
		if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.Text != "profile: not now" || refused.RetryAfter != want {
			t.Errorf("%q: %v, %+v", header, err, refused)
		}
	}
}
