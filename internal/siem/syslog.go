package siem

import (
	"strconv"
	"time"
)

// Who says it, in every format.
const (
	vendor  = "levee"
	product = "levee recorder"
	appName = "levee"
)

// origin is what all lines of a process have in common.
type origin struct {
	host    string // RFC 5424, section 6.2.4
	version string // of the product
}

// facility is "security/authorization messages" (RFC 5424, section 6.2.1): other
// systems' collectors know it by name, unlike "log audit".
const facility = 10

// bom begins a MSG in UTF-8 (RFC 5424, section 6.4).
const bom = "\xEF\xBB\xBF"

// appendFrame appends an event as one frame: the octets of the syslog message,
// counted, and the message (RFC 5425, section 4.3).
func appendFrame(b []byte, e Event, f Format, o origin, uid string, sequence uint64) []byte {
	m := appendMessage(nil, e, f, o, uid, sequence)
	b = strconv.AppendInt(b, int64(len(m)), 10)
	return append(append(b, ' '), m...)
}

// appendMessage appends an event as a syslog message (RFC 5424, section 6).
func appendMessage(b []byte, e Event, f Format, o origin, uid string, sequence uint64) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facility*8+severities[e.Severity].syslog), 10)
	b = append(b, ">1 "...)
	b = e.Received.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, ' ')
	b = append(b, o.host...)
	b = append(b, " "+appName+" - "...)
	b = append(b, e.ID...)
	b = append(b, ` [meta sequenceId="`...) // RFC 5424, section 7.3.1: 1 to 2147483647
	b = strconv.AppendUint(b, (sequence-1)%(1<<31-1)+1, 10)
	b = append(b, `"] `...)
	content := formats[f](nil, e, o, uid)
	// ASCII needs no mark, and collectors look for "CEF:" where MSG begins.
	if !ascii(content) {
		b = append(b, bom...)
	}
	return append(b, content...)
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// validHost reports whether s can be the HOSTNAME of a syslog message.
func validHost(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 255
}

// validTime bounds what a timestamp of RFC 3339 can say.
func validTime(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 9999 }
