package revocation

import (
	"fmt"
	"reflect"
	"testing"

	"levee/internal/wire"
)

// Whatever is accepted says one thing, of this site alone, and within bounds.
func FuzzRevocations(f *testing.F) {
	f.Add(string(payload(1, noon, revoke(web1, noon), revoke(alice, noon))))
	f.Add(entry(`{"sender":"melb/sensor/web-1","before":1,"generation":2},{"serial":"000102030405060708090a0b0c0d0e0f","until":5}`))
	f.Add(entry(``))
	f.Add(entry(`{"sender":"perth/sensor/web-1","before":1}`))
	f.Add(entry(`{"sender":"melb/sensor/web-1","before":1},{"sender":"melb/sensor/web-1","before":1}`))
	f.Add(fmt.Sprintf(`{"timestamp":1,"number":9007199254740992,"issued":%d,"revoked":[]}`, noon.UnixMilli()))
	f.Fuzz(func(t *testing.T, text string) {
		var decoded wire.Revocations
		if wire.DecodeExact([]byte(text), &decoded) != nil {
			return
		}
		l := &list{number: decoded.Number, time: noon.UnixMilli(), revoked: decoded.Revoked,
			senders: make(map[string]wire.Revoked), serials: make(map[wire.ID]bool)}
		if l.read(decoded.Issued, "melb", skew) != nil {
			return
		}
		if len(l.senders)+len(l.serials) != len(decoded.Revoked) || len(decoded.Revoked) > wire.MaxRevoked || l.number == 0 || l.number > uint64(l.time+skew.Milliseconds()) {
			t.Errorf("accepted: %+v", l)
		}
		for sender, r := range l.senders {
			if !member(sender, "melb") || r.Before < 1 || r.Sender != sender {
				t.Errorf("accepted: %+v", r)
			}
		}
		again, err := wire.Encode(&decoded)
		if err != nil {
			t.Fatal(err)
		}
		var back wire.Revocations
		if err := wire.DecodeExact(again, &back); err != nil || !reflect.DeepEqual(back.Revoked, decoded.Revoked) {
			t.Errorf("came back as %+v, %v", back, err)
		}
	})
}
