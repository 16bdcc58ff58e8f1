package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"levee/internal/daemon"
)

// A flood that nobody limits is a failure, not a success.
func TestFloodThatNobodyLimits(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	var stdout, stderr bytes.Buffer
	target := strings.TrimPrefix(server.URL, "http://")
	code := execute(t.Context(), []string{"drill", "flood", "--target", target, "--rate", "20", "--duration", "1500ms"}, &stdout, &stderr)
	if code != daemon.ExitFailure || !strings.Contains(stderr.String(), "the flood was never limited") {
		t.Errorf("code %d: %s", code, stderr.String())
	}
}
