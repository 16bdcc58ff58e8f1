package vectors_test

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/test/programs"
	"levee/test/vectors"
)

// second is one process of the second implementation, asked line by line.
type second struct {
	cmd *exec.Cmd // nil before the first question: the process that only hands out work needs none
	in  io.WriteCloser
	out *bufio.Reader
}

func (s *second) run(interpreter string) error {
	cmd := exec.Command(interpreter, script, "open-lines")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.in, s.out = cmd, in, bufio.NewReader(out)
	return nil
}

// stop ends the process, which goes when its input does.
func (s *second) stop() {
	if s.cmd != nil {
		s.in.Close()
		s.cmd.Wait()
	}
}

// ask returns its reason for one message.
func (s *second) ask(t *testing.T, interpreter string, r vectors.Receiver, m vectors.Message) string {
	t.Helper()
	if s.cmd == nil {
		if err := s.run(interpreter); err != nil {
			t.Fatalf("starting Python: %v", err)
		}
	}
	line, err := json.Marshal(struct {
		vectors.Receiver
		Now       int64  `json:"now"`
		Topic     string `json:"topic"`
		Publisher string `json:"publisher"`
		MaxBytes  int    `json:"max_bytes"`
		Signed    bool   `json:"signed"`
		Statement bool   `json:"statement"`
		Raw       []byte `json:"raw"`
	}{r, m.Now, m.Topic, m.Publisher, m.MaxBytes, m.Signed, m.Statement, m.Raw})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		t.Fatalf("asking Python: %v", err)
	}
	answer, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("Python's answer to %s: %v", line, err)
	}
	return strings.TrimSuffix(answer, "\n")
}

// edits changes raw as the bytes of plan say, four or more for each change: so
// the fuzzer's small steps are steps in the message's own structure.
func edits(raw, plan []byte) []byte {
	raw = bytes.Clone(raw)
	for n := 0; len(plan) >= 4 && n < 16; n++ {
		kind, place, what := plan[0], int(binary.BigEndian.Uint16(plan[1:])), plan[3]
		plan = plan[4:]
		from := 0
		if at := bytes.Index(raw, []byte(`"payload":`)); at >= 0 && kind&0x80 != 0 {
			from = at
		}
		at := from + place%(len(raw)-from+1)
		end := min(len(raw), at+1+int(what)%16)
		scrap := []byte(scraps[int(what)%len(scraps)])
		switch kind & 0x7f % 7 {
		case 0:
			raw = slices.Insert(raw, at, scrap...)
		case 1:
			raw = slices.Replace(raw, at, min(len(raw), at+1), scrap...)
		case 2:
			raw = slices.Delete(raw, at, end)
		case 3:
			raw = slices.Insert(raw, at, bytes.Clone(raw[at:end])...)
		case 4: // another character
			raw = slices.Replace(raw, at, min(len(raw), at+1), what)
		case 5: // a member once more, elsewhere
			members := bytes.SplitAfter(raw, []byte(","))
			raw = slices.Insert(raw, at, bytes.Clone(members[int(what)%len(members)])...)
		case 6: // whatever the plan holds
			length := min(len(plan), int(what))
			raw = slices.Insert(raw, at, plan[:length]...)
			plan = plan[length:]
		}
	}
	return raw
}

// sealedFor makes the MAC of raw right, where the receiver holds the key of
// its kid: otherwise no change would get behind it. It is section 6 and 3 of
// the page once more, out of the standard library.
func sealedFor(t *testing.T, r vectors.Receiver, raw []byte) []byte {
	t.Helper()
	kid, err := envelope.ScanKeyID(raw)
	if err != nil || len(raw) < 53 {
		return raw
	}
	id, err := envelope.ParseKeyID(kid)
	if err != nil {
		t.Fatal(err)
	}
	role, held := r.Keys[id.Role]
	if !held || id.Site != r.Site {
		return raw
	}
	parent, err := hex.DecodeString(role)
	if err != nil {
		t.Fatal(err)
	}
	info := "sender\x00"
	for _, field := range []string{id.Name, fmt.Sprint(id.Generation)} {
		info += string(rune(len(field))) + field
	}
	key, err := hkdf.Key(sha256.New, parent, []byte("levee/v1"), info, 32)
	if err != nil {
		t.Fatal(err)
	}
	body := raw[:len(raw)-53]
	h := hmac.New(sha256.New, key)
	h.Write([]byte("levee/envelope/v1\x00"))
	h.Write(body)
	return fmt.Appendf(nil, `%s,"mac":"%s"}`, body, base64.RawURLEncoding.EncodeToString(h.Sum(nil)))
}

// FuzzAgainstPython gives the same bytes to both implementations: raw, or the
// message of a case if that is empty, changed as plan says, and with the right
// MAC if seal is set. They must give the same answer. Signatures are left out
// (no receiver here has a root), since openssl takes a process for each; the
// vectors and TestPythonAgreesOnChangedMessages have them.
func FuzzAgainstPython(f *testing.F) {
	interpreter := programs.Need(f, "python3", "apt-get install python3")
	cases := all(f)
	random := rand.New(rand.NewPCG(3, 4))
	for i, c := range cases {
		for j := range c.Messages {
			f.Add(uint16(i), uint8(j), []byte(nil), []byte(nil), false)
		}
		plan := make([]byte, 4+random.IntN(12))
		for k := range plan {
			plan[k] = byte(random.Uint32())
		}
		f.Add(uint16(i), uint8(0), []byte(nil), plan, true)
	}
	f.Add(uint16(0), uint8(0), []byte(`{"v":1,"kid":"melb/sensor/web-1/1","ts":0,"nonce":"00000000001-1","topic":"a","payload":{}`), []byte(nil), true)
	if len(cases) < 500 {
		f.Fatalf("%d cases are no corpus", len(cases))
	}
	receivers := make(map[uint16]*receiver)
	python := new(second)
	f.Cleanup(python.stop)
	f.Fuzz(func(t *testing.T, which uint16, number uint8, raw, plan []byte, seal bool) {
		which %= uint16(len(cases))
		c := cases[which]
		c.Receiver.Start, c.Receiver.Root = 0, nil // no file, no openssl
		r := receivers[which]
		if r == nil {
			r = newReceiver(t, c.Receiver)
			receivers[which] = r
		}
		m := c.Messages[int(number)%len(c.Messages)]
		if len(raw) > 0 {
			m.Raw = raw
		}
		m.Raw = edits(m.Raw, plan)
		if seal && !m.Statement {
			m.Raw = sealedFor(t, c.Receiver, m.Raw)
		}
		if len(m.Raw) > 2*envelope.MaxBackfill { // more than a line holds, and long refused
			return
		}
		r.windows = replay.New(1)
		got, want := r.receive(m).String(), python.ask(t, interpreter, c.Receiver, m)
		if want == "content" && strings.Contains(m.Topic, "/digests/") {
			want = "accepted" // check 15 is not this receiver's
		}
		if got != want {
			t.Fatalf("%s; Python says %s: %q", got, want, m.Raw)
		}
	})
}
