package provision

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"levee/services/issuer"
)

// An issuer opens the bundle that is made for it; a sealed authority's key names
// the credential that opens it.
func TestIssuerOpens(t *testing.T) {
	dir, inv := filepath.Join(t.TempDir(), "bank"), tiny()
	inv.Sites[0].Issuers[0].Listen = freePort(t)
	ids := mustApply(t, dir, inv)
	l := Layout{Dir: dir}
	for _, id := range ids {
		text := string(read(t, l.Config(id)))
		if renews := strings.Contains(text, "\nissuer: "); renews == (id.Role == "issuer") {
			t.Errorf("%s is told where to renew: %v", id.Sender(), renews)
		}
		if id.Role != "issuer" {
			continue
		}
		part, err := issuer.Open(l.Config(id), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := part.Close(); err != nil {
			t.Error(err)
		}
	}
	sealed := filepath.Join(t.TempDir(), "bank")
	if _, err := (Config{Dir: sealed, Inventory: inv, Passphrase: asked(t, make(map[Secret]int))}).Apply(noon); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id.Role != "issuer" {
			continue
		}
		l := Layout{Dir: sealed}
		t.Setenv("CREDENTIALS_DIRECTORY", t.TempDir())
		if _, err := issuer.Open(l.Config(id), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "levee-issuer") {
			t.Errorf("without the credential: %v", err)
		}
	}
}
