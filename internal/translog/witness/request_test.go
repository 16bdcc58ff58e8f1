package witness

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const hash = "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw="

func TestRequestRefusals(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":                   "",
		"no empty line":             "old 0\nx\n",
		"no old size":               "\n\nx\n",
		"another word":              "new 0\n\nx\n",
		"a leading zero":            "old 01\n\nx\n",
		"a sign":                    "old +1\n\nx\n",
		"below zero":                "old -1\n\nx\n",
		"two spaces":                "old  1\n\nx\n",
		"a space after":             "old 1 \n\nx\n",
		"a carriage return":         "old 1\r\n\nx\n",
		"beyond 63 bits":            "old 9223372036854775808\n\nx\n",
		"a proof line that is none": "old 1\nxx\n\nx\n",
		"a short hash":              "old 1\n" + hash[4:] + "\n\nx\n",
		"a long hash":               "old 1\n" + hash[:40] + hash + "\n\nx\n",
		"stray bits":                "old 1\n" + hash[:42] + "x=\n\nx\n",
		"no padding":                "old 1\n" + hash[:43] + "\n\nx\n",
		"base64 for names":          "old 1\n" + strings.Replace(hash, "P", "_", 1) + "\n\nx\n",
		"a return in a hash":        "old 1\n" + hash[:20] + "\r" + hash[20:] + "\n\nx\n",
		"64 proof lines":            "old 1\n" + strings.Repeat(hash+"\n", 64) + "\nx\n",
		"over the bound":            "old 1\n\n" + strings.Repeat("x", maxRequest),
	} {
		if r, err := parseRequest([]byte(body)); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
	if r, err := parseRequest([]byte("old 7\n" + strings.Repeat(hash+"\n", 63) + "\nx\n\ny\n")); err != nil || r.old != 7 || len(r.proof) != 63 || string(r.checkpoint) != "x\n\ny\n" {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is accepted has one spelling.
func FuzzRequest(f *testing.F) {
	log := newBook(f, melb).grow("a", 300)
	for _, old := range []int64{0, 1, 255, 300} {
		f.Add(log.from(old).marshal())
	}
	f.Add([]byte("old 1\n" + hash + "\n\nx"))
	p := newPost(f, f.TempDir(), newKey(f, perth), log)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRequest(body)
		if err == nil && !bytes.Equal(r.marshal(), body) {
			t.Errorf("%q is spelt again as %q", body, r.marshal())
		}
		if err != nil && (r.old != 0 || r.proof != nil || r.checkpoint != nil) {
			t.Errorf("%v, and %+v", err, r)
		}
		// Whatever comes, it is answered, and nothing but the log's own is cosigned.
		a := p.add(t.Context(), body, anybody, noon)
		if strings.Contains(a.body, "\u2014") != (a.outcome == Cosigned) {
			t.Errorf("%+v", a)
		}
	})
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness.key")
	file, err := GenerateKey(perth)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKey(path)
	if err != nil || key.Name() != perth || !strings.HasPrefix(key.VKey(), perth+"+") {
		t.Fatalf("%v, %v", key.Name(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(path); err == nil || !strings.Contains(err.Error(), "only its owner") {
		t.Errorf("a key that others may read: %v", err)
	}
	seed := strings.TrimSpace(string(file[bytes.LastIndexByte(file, '+')+1:]))
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", slog.Any("key", key), slog.Any("config", struct{ K Key }{key}))
	fmt.Fprintf(&out, "%v %+v %#v %s", key, key, key, key)
	if strings.Contains(out.String(), seed) || strings.Count(out.String(), "redacted") < 5 {
		t.Errorf("printed %s", out.String())
	}
	for _, name := range []string{"", "a b", "a+b", "A", "a\nb", "a_b", strings.Repeat("a", 129)} {
		if _, err := GenerateKey(name); err == nil {
			t.Errorf("a key for %q", name)
		}
	}
}

// A key file has one spelling, and what is wrong with it is not quoted.
func FuzzKey(f *testing.F) {
	file, err := GenerateKey(perth)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(bytes.TrimSpace(file))
	f.Add(append(file, '\n'))
	f.Add(bytes.Replace(file, []byte("witness"), []byte("recorder"), 1))
	f.Add([]byte("PRIVATE+KEY+a+00000000+AAAA\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := ParseKey(file)
		if err != nil {
			if err != errKeyFile || k.private != nil {
				t.Errorf("%v, %q", err, k.name)
			}
			return
		}
		if !bytes.Equal(marshalKey(k.name, k.private), file) {
			t.Errorf("%q is accepted", file)
		}
	})
}
