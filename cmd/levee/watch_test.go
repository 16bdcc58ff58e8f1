package main

import (
	"strings"
	"testing"
)

// A person at one of several brokers is told what is not shown.
func TestWhichBroker(t *testing.T) {
	if text := whichBroker(map[string]bool{"b1": true}); text != "" {
		t.Errorf("of the only one: %q", text)
	}
	if text := whichBroker(map[string]bool{"b1": false, "b2": true}); !strings.HasPrefix(text, " at b2, one of 2 brokers") {
		t.Errorf("of two: %q", text)
	}
	if text := whichBroker(map[string]bool{"b1": false, "b2": false}); text != "" {
		t.Errorf("of none: %q", text)
	}
}
