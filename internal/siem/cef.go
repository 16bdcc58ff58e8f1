package siem

import (
	"strconv"
	"strings"
	"time"
)

// appendCEF appends an event as one line of the Common Event Format, version 0.
func appendCEF(b []byte, e Event, o origin, uid string) []byte {
	k := kinds[e.ID]
	b = append(b, "CEF:0"...)
	for _, field := range []string{vendor, product, o.version, string(e.ID), k.name, strconv.Itoa(severities[e.Severity].cef)} {
		b = append(append(b, '|'), cefHeader.Replace(field)...)
	}
	b = append(b, '|')
	first := true
	field := func(key, value string) {
		if value == "" {
			return
		}
		if !first {
			b = append(b, ' ')
		}
		first = false
		b = append(append(append(b, key...), '='), cefValue.Replace(value)...)
	}
	labelled := func(key, label, value string) {
		if value != "" {
			field(key+"Label", label)
			field(key, value)
		}
	}
	field("rt", millis(e.Received))
	field("start", millis(e.Time))
	field("dvchost", o.host)
	field("externalId", uid)
	field("cat", k.class.name)
	if e.Actor == "" {
		field("suser", e.Sender)
	} else { // a person did something to somebody
		field("suser", e.Actor)
		field("duser", e.Sender)
	}
	field("dhost", e.Server)
	field("act", e.Action)
	field("outcome", e.Outcome)
	field("reason", e.Reason)
	if e.Count > 0 {
		field("cnt", strconv.FormatUint(e.Count, 10))
	}
	field("msg", e.Message)
	labelled("cs1", "object", e.Object)
	labelled("cs2", "topic", e.Topic)
	labelled("cs3", "broker", e.Broker)
	if e.Metric != "" {
		labelled("cs4", "metric", e.Metric)
		labelled("cfp1", "value", decimal(e.Value))
		labelled("cfp2", "threshold", decimal(e.Limit))
	}
	if e.Late {
		labelled("cs5", "late", "true")
	}
	return b
}

// What CEF escapes: in the header the bar, in a value the equals sign, in both
// the backslash. A line end is spelt out in a value, and none stands in a header.
var (
	cefHeader = strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", " ", "\r", " ")
	cefValue  = strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`)
)

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
