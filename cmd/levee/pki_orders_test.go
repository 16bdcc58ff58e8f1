package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"levee/internal/enrol"
	"levee/internal/issuance"
)

// answers is an issuer that says one thing.
type answers struct {
	text string
	err  error
}

func (a answers) Order(context.Context, []byte) ([]byte, error) { return []byte(a.text), a.err }

func TestSend(t *testing.T) {
	for _, test := range []struct {
		name   string
		issuer answers
		code   int // 0: done
		want   string
	}{
		{"done", answers{text: `{"journal":"issuer-1","index":4,"number":9}`}, 0, "\"number\":9}\nlater\n"},
		{"refused", answers{err: &enrol.Refused{Status: 403, Text: "not you"}}, exitVerification, "not you"},
		{"not reached", answers{err: errors.New("connection refused")}, 1, "connection refused"},
		{"no JSON", answers{text: "<html>"}, 1, "not JSON"},
	} {
		var out bytes.Buffer
		err := send(t.Context(), test.issuer, &out, []byte("{}"), false, "later\n")
		code := 0
		if f := (failure{}); errors.As(err, &f) {
			code = f.code
		} else if err != nil {
			code = 1
		}
		shown := out.String()
		if err != nil {
			shown += err.Error()
		}
		if code != test.code || !strings.Contains(shown, test.want) || err != nil && out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q", test.name, code, shown)
		}
	}
}

// Who revokes machines learns when their new bundles count.
func TestAdviceAfterRevocation(t *testing.T) {
	targets, serials := issuance.Order{Targets: []string{"melb/sensor/web-1"}}, issuance.Order{Serials: []string{strings.Repeat("0", 32)}}
	for _, test := range []struct {
		kind  issuance.OrderKind
		order issuance.Order
		want  bool
	}{{issuance.Revoke, targets, true}, {issuance.Revoke, serials, false}, {issuance.Readmit, targets, false}} {
		if got := (&ordering{order: test.order}).advice(test.kind); strings.Contains(got, "within a minute after this order") != test.want {
			t.Errorf("%s of %+v: %q", test.kind, test.order, got)
		}
	}
}

// Nothing is signed without a person's word, and that word is about one thing.
func TestConfirm(t *testing.T) {
	for _, test := range []struct {
		yes  string
		code int
	}{{"abc", 0}, {"abd", exitVerification}, {"", 2}} { // no terminal in a test
		var out bytes.Buffer
		err := confirm(&out, "abc", test.yes)
		code := 0
		if f := (failure{}); errors.As(err, &f) {
			code = f.code
		} else if err != nil {
			code = 1
		}
		if code != test.code || out.Len() > 0 {
			t.Errorf("--yes %q: %v, %q", test.yes, err, out.String())
		}
	}
}
