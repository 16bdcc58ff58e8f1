package policies

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The default file writes out every figure of the section "broker", and what is
// left out has the same.
func TestBrokerDefaults(t *testing.T) {
	written := mustParse(t, defaultFile).Broker()
	begin, end := strings.Index(defaultFile, "\nbroker:"), strings.Index(defaultFile, "\n# What a monitor may command")
	section := defaultFile[begin:end]
	left := mustParse(t, defaultFile[:begin]+defaultFile[end:]).Broker()
	if written != left {
		t.Errorf("written %+v\nleft out %+v", written, left)
	}
	file := reflect.TypeFor[brokerFile]()
	for i := range file.NumField() {
		if name := file.Field(i).Tag.Get("yaml"); !strings.Contains(section, "\n  "+name+": ") {
			t.Errorf("the default file does not say %s", name)
		}
	}
	if reflect.ValueOf(Broker{}).NumField() != file.NumField() {
		t.Error("a figure cannot be set")
	}
}

// Figures with which nobody could work, or that contradict each other, are
// refused.
func TestBrokerRefusals(t *testing.T) {
	for line, want := range map[string]string{
		"connections: 0":          "connections 0 is outside",
		"connections: 100":        "more than the whole",
		"pending: 5000000":        "pending 5000000 is outside",
		"address_pending: 513":    "more than the whole",
		"queue_bytes: 65536":      "queue_bytes 65536 is outside",
		"in_flight: 65536":        "in_flight 65536 is outside",
		"filters: 65":             "filters 65 is outside",
		"topic_levels: 9":         "topic_levels 9 is outside",
		"topic_levels: 5":         "topic_levels 5 is outside",
		"topic_bytes: 201":        "topic_bytes 201 is outside",
		"strikes: -1":             "strikes -1 is outside",
		"strikes: yes":            "not an integer",
		"connects: 0":             "connects 0 is outside",
		"handshake_timeout: 1ms":  "handshake_timeout 1ms is outside",
		"handshake_timeout: 5":    "not a duration",
		"write_timeout: 2m":       "write_timeout 2m0s is outside",
		"min_keep_alive: 30s":     "must admit 20s",
		"max_keep_alive: 10s":     "must admit 20s",
		"min_keep_alive: 1500ms":  "whole seconds",
		"max_keep_alive: 9s":      "above max_keep_alive",
		"first_ban: 2h":           "above longest_ban",
		"longest_ban: 48h":        "longest_ban 48h0m0s is outside",
		"throttled: 0s":           "throttled 0s is outside",
		"offences: 0":             "offences 0 is outside",
		"offences_within: 0s":     "offences_within 0s is outside",
		"address_connects: 10":    "address_connects",
		"address_connections: 0x": "not an integer",
	} {
		name, _, _ := strings.Cut(line, ":")
		text := defaultFile
		if found := regexp.MustCompile(`(?m)^  ` + name + `: .*$`).FindStringIndex(text); found != nil {
			text = text[:found[0]] + "  " + line + text[found[1]:]
		} else {
			text = strings.Replace(text, "\nbroker:\n", "\nbroker:\n  "+line+"\n", 1)
		}
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", line, err)
		}
	}
}
