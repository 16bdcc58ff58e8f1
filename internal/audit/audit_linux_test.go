package audit

import "testing"

func TestIntact(t *testing.T) {
	b := newRecord(t)
	r := b.sound(t)
	t.Logf("%+v", r)
}
