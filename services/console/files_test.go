package console

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
)

// uPlot 1.6.32 as the npm registry has it; the tarball's integrity is
// sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==
var vendored = map[string]string{
	"LICENSE":       "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
	"uPlot.esm.js":  "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
	"uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}

func TestVendoredFilesAreTheirAuthors(t *testing.T) {
	entries, err := fs.ReadDir(web, "web/vendor")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(vendored) {
		t.Errorf("%d vendored files, %d known", len(entries), len(vendored))
	}
	for _, e := range entries {
		text, err := web.ReadFile("web/vendor/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != vendored[e.Name()] {
			t.Errorf("%s is not the file that was reviewed", e.Name())
		}
	}
}

// sinks turn text into markup, code or style.
var sinks = regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|setHTML|` +
	`\beval\b|new Function|javascript:|\.cssText|localStorage|sessionStorage|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|<script|<style|trustedTypes`)

// inline is what the policy refuses in a page.
var inline = regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:|https?://|<form|<iframe|<base`)

func TestPageHasNoWayToMakeMarkup(t *testing.T) {
	err := fs.WalkDir(web, "web", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := web.ReadFile(name)
		if err != nil {
			return err
		}
		switch path.Ext(name) {
		case ".js":
			if found := sinks.FindString(string(text)); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		case ".html":
			if found := inline.FindString(string(text)); found != "" {
				t.Errorf("%s has %q", name, found)
			}
		case ".css":
			if strings.Contains(string(text), "url(") || strings.Contains(string(text), "@import") {
				t.Errorf("%s loads another file", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	importedFile = regexp.MustCompile(`from "([^"]+)"`)
	linkedFile   = regexp.MustCompile(`(?:href|src)="(/[^"]*)"`)
)

// Every file that the page asks for is served, with a type that browsers take,
// and from the page's own address.
func TestEveryFileIsThere(t *testing.T) {
	all := files()
	served := func(name string) string {
		h, ok := all[name]
		if !ok {
			t.Errorf("%s is not served", name)
			return ""
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Body.String()
	}
	for _, m := range linkedFile.FindAllStringSubmatch(served("/{$}"), -1) {
		served(m[1])
	}
	modules := 0
	for name, h := range all {
		if path.Ext(name) != ".js" {
			continue
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
			t.Errorf("%s is %s", name, w.Header().Get("Content-Type"))
		}
		for _, m := range importedFile.FindAllStringSubmatch(w.Body.String(), -1) {
			modules++
			if target := m[1]; strings.HasPrefix(target, "/") {
				served(target)
			} else {
				served(path.Join(path.Dir(name), target))
			}
		}
	}
	if modules < 10 {
		t.Errorf("only %d imports were found", modules)
	}
}

// A column of the report's console each, and its three buttons, by their names.
func TestReportsViewsAndButtons(t *testing.T) {
	text, err := web.ReadFile("web/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">CPU</a>", ">RAM</a>", ">Network</a>", ">Alerts <", ">Command Status <", ">Public Messages</a>",
		">Enable Rate Limiting</button>", ">Scale Up Servers</button>", ">Clear View</button>"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
