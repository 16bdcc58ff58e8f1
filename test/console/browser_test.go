package console

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/test/programs"
)

// browser is a Chromium, driven through driver.mjs.
type browser struct {
	in    io.WriteCloser
	out   *bufio.Reader
	shots string // directory
}

// open starts a browser, or skips the test where one of its programs is
// missing.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	node := programs.Need(t, "node", "apt-get install nodejs")
	chromium := programs.Need(t, "chromium", "apt-get install chromium")
	if _, err := os.Stat(filepath.Join("node_modules", "playwright-core")); err != nil {
		programs.Missing(t, "playwright-core", "npm ci in test/console")
	}
	b := &browser{shots: os.Getenv("LEVEE_CONSOLE_SHOTS")}
	if b.shots == "" {
		b.shots = t.TempDir()
	}
	cmd := exec.Command(node, "driver.mjs")
	cmd.Env = append(os.Environ(), "CHROMIUM="+chromium)
	cmd.Stderr = os.Stderr
	var err error
	if b.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.out = bufio.NewReader(out)
	t.Cleanup(func() {
		b.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the driver ended with %v", err)
		}
	})
	return b
}

type request map[string]any

// do has the driver do something and returns its answer.
func (b *browser) do(t *testing.T, r request) json.RawMessage {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	text, err := b.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v: %v", r, err)
	}
	var answer struct {
		Value json.RawMessage `json:"value"`
		Error string          `json:"error"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Error != "" {
		t.Fatalf("%v: %v %s", r, err, answer.Error)
	}
	return answer.Value
}

// eval returns what a script in the page comes to.
func eval[T any](t *testing.T, b *browser, script string) (v T) {
	t.Helper()
	if err := json.Unmarshal(b.do(t, request{"do": "eval", "script": script}), &v); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return v
}

// text returns what people read in an element.
func (b *browser) text(t *testing.T, selector string) string {
	t.Helper()
	return eval[string](t, b, `[...document.querySelectorAll(`+quote(selector)+`)].map((e) => e.innerText).join("\n")`)
}

func (b *browser) count(t *testing.T, selector string) int {
	t.Helper()
	return eval[int](t, b, `document.querySelectorAll(`+quote(selector)+`).length`)
}

// cut names the tables that are wider than their box.
func (b *browser) cut(t *testing.T) string {
	t.Helper()
	return eval[string](t, b, `[...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.getAttribute("aria-label")).join(", ")`)
}

func (b *browser) click(t *testing.T, selector string) {
	t.Helper()
	b.do(t, request{"do": "click", "selector": selector})
}

// awaitText waits until an element says something.
func (b *browser) awaitText(t *testing.T, limit time.Duration, selector string, words ...string) {
	t.Helper()
	var last string
	deadline := time.Now().Add(limit)
	for {
		last = b.text(t, selector)
		missing := false
		for _, w := range words {
			missing = missing || !strings.Contains(last, w)
		}
		if !missing {
			return
		}
		if time.Now().After(deadline) {
			b.shot(t, "failed", false)
			t.Fatalf("after %s %s does not say %q, but %q", limit, selector, words, last)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (b *browser) view(t *testing.T, width, height int, colour string) {
	t.Helper()
	b.do(t, request{"do": "view", "width": width, "height": height, "colour": colour})
	time.Sleep(600 * time.Millisecond) // the page draws at its own pace
}

func (b *browser) shot(t *testing.T, name string, full bool) {
	t.Helper()
	b.do(t, request{"do": "shot", "path": filepath.Join(b.shots, name+".png"), "full": full})
}

// problems are errors, violations and dialogs since the page was opened.
func (b *browser) problems(t *testing.T) (all []string) {
	t.Helper()
	if err := json.Unmarshal(b.do(t, request{"do": "problems"}), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has an encoding
	}
	return string(b)
}
