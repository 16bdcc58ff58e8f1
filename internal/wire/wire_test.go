package wire_test

import (
	"errors"
	"strings"
	"testing"

	"levee/internal/wire"
)

func TestTopicsRoundTrip(t *testing.T) {
	for topic, want := range map[string]wire.Topic{
		"melb/bank_server/metrics/cpu/web-1":              {Kind: wire.KindCPU, Site: "melb", Role: "sensor", Name: "web-1"},
		"melb/bank_server/metrics/network/web-1":          {Kind: wire.KindNetwork, Site: "melb", Role: "sensor", Name: "web-1"},
		"melb/bank_server/alerts/m1":                      {Kind: wire.KindAlert, Site: "melb", Role: "monitor", Name: "m1"},
		"melb/bank_server/control/command/monitor/m1":     {Kind: wire.KindCommand, Site: "melb", Role: "monitor", Name: "m1"},
		"melb/bank_server/status/rate_limiting/lb-1":      {Kind: wire.KindRateLimiting, Site: "melb", Role: "controller", Name: "lb-1"},
		"melb/bank_server/digests/sensor/web-1":           {Kind: wire.KindDigest, Site: "melb", Role: "sensor", Name: "web-1"},
		"melb/bank_server/acks/rec-1/sensor/web-1":        {Kind: wire.KindAck, Site: "melb", Role: "recorder", Name: "rec-1", PeerRole: "sensor", PeerName: "web-1"},
		"melb/bank_server/backfill/controller/balancer-1": {Kind: wire.KindBackfill, Site: "melb", Role: "controller", Name: "balancer-1"},
	} {
		got, err := wire.ParseTopic(topic)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", topic, got, err)
		}
		if got.String() != topic {
			t.Errorf("%s came back as %s", topic, got)
		}
		if !got.Protected() {
			t.Errorf("%s is not protected", topic)
		}
	}
	for _, topic := range []string{"public", "public/a/b"} {
		if got, err := wire.ParseTopic(topic); err != nil || got.Protected() || got.Kind != wire.KindPublic {
			t.Errorf("%s: %+v, %v", topic, got, err)
		}
	}
}

func TestTopicsOutsideTheGrammar(t *testing.T) {
	for _, topic := range []string{
		"", "/", "melb", "melb/bank_server", "melb/bank_server/metrics/cpu", "melb/bank_server/metrics/cpu/", "/melb/bank_server/alerts/m1",
		"melb/bank_server/metrics/cpu/web-1/x", "melb/bank_server/metrics/disk/web-1", "melb/other/alerts/m1",
		"melb/bank_server/control/command/m1", "melb/bank_server/alerts/M1", "melb/bank_server/alerts/m.1", "melb/bank_server/alerts/+",
		"melb/bank_server/alerts/#", "$SYS/broker", "$share/g/melb/bank_server/alerts/m1", "publicity", "melb/bank_server/alerts/m1\x00",
		"melb/bank_server/alerts/" + strings.Repeat("a", 33), "a/b/c/d/e/f/g/h/i", "melb//alerts/m1", "public//a",
	} {
		if got, err := wire.ParseTopic(topic); err == nil {
			t.Errorf("%q: read as %+v", topic, got)
		}
	}
}

func TestFiltersCoverTheirKind(t *testing.T) {
	for kind, want := range map[wire.Kind]string{
		wire.KindCPU:     "melb/bank_server/metrics/cpu/+",
		wire.KindCommand: "melb/bank_server/control/command/+/+",
		wire.KindDigest:  "melb/bank_server/digests/+/+",
		wire.KindAck:     "melb/bank_server/acks/+/+/+",
		wire.KindPublic:  "",
		wire.KindNone:    "",
	} {
		if got := wire.Filter(kind, "melb"); got != want {
			t.Errorf("%v: %q, want %q", kind, got, want)
		}
	}
}

func TestCheckObject(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(`,"a` + strings.Repeat("x", i%20) + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + `":1`)
		}
		return "{" + b.String()[1:] + "}"
	}
	for _, good := range []string{
		`{}`, `{"a":1}`, `{"a":-0.5e+10,"b":[true,false,"x",{}],"c":{"a":1}}`, `{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é😀"}`,
		`{"a":[[[[[[[]]]]]]]}`, many(64), `{"` + strings.Repeat("a", 32) + `":1}`,
	} {
		if err := wire.CheckObject([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		``, `[]`, `1`, `"a"`, `null`, ` {}`, `{} `, `{ }`, `{"a" :1}`, `{"a": 1}`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{"a":1`, `{"a":1}}`, `{"a":1}{}`,
		`{"a":1,"a":2}`, `{"x":{"a":1,"a":2}}`, `{"A":1}`, `{"\u0061":1}`, `{"ſ":1}`, `{"":1}`, `{"` + strings.Repeat("a", 33) + `":1}`,
		`{"a":01}`, `{"a":+1}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":NaN}`, `{"a":-}`, `{"a":0x1}`, `{"a":tru}`, `{"a":null}`, `{"a":[null]}`,
		"{\"a\":\"\xff\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\n\"}", `{"a":"\u0000"}`, `{"a":"\ud83d"}`, `{"a":"\ude00"}`, `{"a":"\ud83dx"}`, `{"a":"\ud83d\u0061"}`,
		`{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"\u12`, `{"a":"`, `{"a":[1 ,2]}`, `{"a":[1,]}`, `{"a":[[[[[[[[]]]]]]]]}`, many(65), "{\"a\":1}\x00",
	} {
		if err := wire.CheckObject([]byte(bad)); !errors.Is(err, wire.ErrPayload) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDecode(t *testing.T) {
	var ram wire.RAM
	if err := wire.Decode([]byte(`{"timestamp":1.5,"server":"web-1","ram_usage":41.5,"more":[1]}`), &ram); err != nil || ram.RAMUsage != 41.5 {
		t.Errorf("telemetry with an unknown member: %+v, %v", ram, err)
	}
	for _, bad := range []string{
		`{"timestamp":1.5,"server":"web-1"}`, `{"timestamp":1.5,"server":"web-1","ram_usage":"41.5"}`, `{"timestamp":1.5,"server":"web-1","ram_usage":null}`,
		`{"timestamp":1.5,"server":"web-1","RAM_USAGE":41.5}`, `{"timestamp":1.5,"server":"web-1","ram_usage":1e999}`,
	} {
		if err := wire.Decode([]byte(bad), new(wire.RAM)); !errors.Is(err, wire.ErrPayload) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	command := wire.Command{ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1", Issued: 1, TTL: 30,
		Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}}
	b, err := wire.Encode(&command)
	if err != nil {
		t.Fatal(err)
	}
	var back wire.Command
	if err := wire.DecodeExact(b, &back); err != nil || back.ID != command.ID || back.Parameters != command.Parameters {
		t.Errorf("command came back as %+v, %v", back, err)
	}
	for _, edit := range [][2]string{
		{`"ttl_seconds"`, `"delta":1,"ttl_seconds"`}, {`"burst"`, `"bursts"`}, {`,"issued":1`, ``}, {command.ID.String(), strings.Repeat("0", 32)},
		{command.ID.String(), strings.ToUpper(command.ID.String()) + "A"}, {`"server":"web-1",`, ``},
	} {
		bad := strings.Replace(string(b), edit[0], edit[1], 1)
		if err := wire.DecodeExact([]byte(bad), new(wire.Command)); !errors.Is(err, wire.ErrPayload) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	digest := wire.Digest{Boot: "00000000001", First: 1, Last: 9, Dropped: []wire.Drop{{Boot: "00000000001", First: 3, Last: 4}}, Hash: "x"}
	if b, err = wire.Encode(&digest); err != nil || !strings.Contains(string(b), `"dropped":[["00000000001",3,4]]`) {
		t.Errorf("digest encoded as %s, %v", b, err)
	}
	for _, bad := range []string{`["00000000001",3]`, `["00000000001",3,4,5]`, `["00000000001",-3,4]`, `[1,3,4]`, `{}`} {
		text := strings.Replace(string(b), `["00000000001",3,4]`, bad, 1)
		if err := wire.DecodeExact([]byte(text), new(wire.Digest)); !errors.Is(err, wire.ErrPayload) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCheckObjectDoesNotAllocate(t *testing.T) {
	b := []byte(`{"timestamp":1.5,"server":"web-1","values":[1,2,{"a":"é"}]}`)
	if n := testing.AllocsPerRun(100, func() {
		if err := wire.CheckObject(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}
