package pki

import (
	"encoding/asn1"
	"strings"
	"testing"
)

// TestParseAltNames: crypto/x509 reads the extension before us and refuses some
// of this already. The second wall does not lean on that.
func TestParseAltNames(t *testing.T) {
	long := "\x86\x82\x02\x01" + strings.Repeat("a", maxURI+1)
	tests := []struct {
		name, der string
		good      bool
	}{
		{"URI", "\x30\x0c\x86\x0aspiffe://a", true},
		{"DNS name and address", "\x30\x09\x82\x01a\x87\x04\x0a\x00\x00\x01", true},
		{"empty list", "\x30\x00", true},
		{"longest URI", "\x30\x82\x02\x04\x86\x82\x02\x00" + strings.Repeat("a", maxURI), true},
		{"longer URI", "\x30\x82\x02\x05" + long, false},
		{"nothing", "", false},
		{"cut list", "\x30\x0c\x86\x0aspiffe://", false},
		{"cut name", "\x30\x0c\x86\x0bspiffe://a", false},
		{"something after the list", "\x30\x03\x86\x01a\x00", false},
		{"set for sequence", "\x31\x03\x86\x01a", false},
		{"context-specific for sequence", "\xb0\x03\x86\x01a", false},
		{"primitive for sequence", "\x10\x03\x86\x01a", false},
		{"universal for context-specific name", "\x30\x03\x06\x01a", false},
		{"constructed URI", "\x30\x05\xa6\x03\x86\x01a", false},
		{"other name", "\x30\x04\xa0\x02\x05\x00", false},
		{"e-mail address", "\x30\x03\x81\x01a", false},
		{"directory name", "\x30\x04\xa4\x02\x30\x00", false},
		{"registered ID", "\x30\x03\x88\x01*", false},
		{"address of 5 bytes", "\x30\x07\x87\x05\x0a\x00\x00\x01\x00", false},
		{"address with a mask", "\x30\x0a\x87\x08\x0a\x00\x00\x00\xff\x00\x00\x00", false},
		{"mapped address", "\x30\x12\x87\x10" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01", false},
	}
	for _, test := range tests {
		if names, err := parseAltNames([]byte(test.der)); (err == nil) != test.good {
			t.Errorf("%s: %+v, %v", test.name, names, err)
		}
	}
}

// FuzzParseAltNames: no input panics, and of a list that is accepted no name is
// left out.
func FuzzParseAltNames(f *testing.F) {
	f.Add([]byte{0x30, 0x00})
	f.Add([]byte("\x30\x0c\x86\x0aspiffe://a"))
	f.Add([]byte("\x30\x0c\xa6\x0aspiffe://a"))
	f.Add([]byte("\x30\x09\x82\x01a\x87\x04\x0a\x00\x00\x01"))
	f.Add([]byte("\x30\x03\x81\x01a"))
	f.Add([]byte("\x30\x12\x87\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, der []byte) {
		names, err := parseAltNames(der)
		if err != nil {
			if len(names.uris)+len(names.dns)+len(names.ips) != 0 {
				t.Fatalf("names beside an error: %+v", names)
			}
			return
		}
		var list []asn1.RawValue
		if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) != 0 {
			t.Fatalf("accepted what is no list: %v", err)
		}
		if len(list) != len(names.uris)+len(names.dns)+len(names.ips) {
			t.Fatalf("%d names were read as %+v", len(list), names)
		}
	})
}
