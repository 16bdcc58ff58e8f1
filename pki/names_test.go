package pki

import (
	"encoding/asn1"
	"testing"
)

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
