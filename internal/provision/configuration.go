package provision

import (
	"bytes"
	"crypto/ed25519"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/records"
	"levee/pki"
	"levee/pki/ca"
)

//go:embed templates/*.yaml
var templates embed.FS

// configuration returns the configuration file of a part, nil for guests, who
// have none. People have one where there is an issuer, to find it.
func (l Layout) configuration(inv Inventory, s Site, id pki.Identity) ([]byte, error) {
	name := string(id.Role) + ".yaml"
	if id.Role.Class() == pki.ClassPerson {
		name = "person.yaml"
	}
	if id.Role == pki.RoleGuest || id.Role.Class() == pki.ClassPerson && len(s.Issuers) == 0 {
		return nil, nil
	}
	t, err := template.ParseFS(templates, "templates/common.yaml", "templates/"+name)
	if err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	bundle := l.Bundle(id)
	relative := func(path string) (string, error) {
		rel, err := filepath.Rel(bundle, path)
		return filepath.ToSlash(rel), err
	}
	state, err := relative(l.State(id))
	if err != nil {
		return nil, err
	}
	watermark, err := relative(l.Watermark(id))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, name, map[string]any{
		"Identity": id, "State": state, "Watermark": watermark, "Evaluation": inv.Evaluation, "Site": s,
		"Renews": len(s.Issuers) > 0 && id.Role != pki.RoleIssuer, // an issuer renews its own
		"Issuer": s.issuer(), "Lifetime": inv.lifetime(pki.ClassMachine), "Sealed": keyState(filepath.Join(bundle, FileIssuing+".key")) == KeySealed,
		"Broker": s.broker(id.Name), "Monitor": s.monitor(id.Name), "Pools": s.pools(id.Name), "Console": s.console(id.Name), "Witnesses": inv.witnesses(s),
	})
	if err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	return b.Bytes(), nil
}

func (s Site) broker(name string) (found Broker) {
	for _, b := range s.Brokers {
		if b.Name == name {
			return b
		}
	}
	return found
}

// issuer returns the site's issuer, or none.
func (s Site) issuer() (found Issuer) {
	if len(s.Issuers) > 0 {
		found = s.Issuers[0]
	}
	return found
}

func (s Site) monitor(name string) (found Monitor) {
	for _, m := range s.Monitors {
		if m.Name == name {
			return m
		}
	}
	return found
}

func (s Site) console(name string) (found Console) {
	for _, c := range s.Consoles {
		if c.Name == name {
			return c
		}
	}
	return found
}

func (s Site) pools(controller string) []Pool {
	for _, c := range s.Controllers {
		if c.Name == controller {
			return c.Pools
		}
	}
	return nil
}

// address returns where others dial a server, empty for all other parts.
func (s Site) address(id pki.Identity) string {
	switch id.Role {
	case pki.RoleBroker:
		return s.broker(id.Name).Address
	case pki.RoleIssuer:
		return s.issuer().Address
	case pki.RoleRecorder:
		return s.Log.Address
	default:
		return ""
	}
}

// names returns what a server's certificate says beside its identity: the
// address that others dial, and the host by which they verify it.
func (s Site) names(id pki.Identity) (names ca.Names) {
	host, _, err := net.SplitHostPort(s.address(id))
	if err != nil { // none, or not one: Check has seen it
		return names
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		names.IPs = []netip.Addr{ip}
	} else {
		names.DNS = []string{host}
	}
	own := id.Host()
	if id.Role == pki.RoleRecorder {
		own = records.LogHost(own)
	}
	if !slices.Contains(names.DNS, own) {
		names.DNS = append(names.DNS, own)
	}
	return names
}

// verifierKey returns the public half of a log's signing key (C2SP
// signed-note). The library makes both at once and derives neither.
func verifierKey(signing string) (string, error) {
	s, err := note.NewSigner(signing)
	if err != nil {
		return "", errors.New("reading the log key: not the signing key of a note")
	}
	parts := strings.SplitN(signing, "+", 5) // PRIVATE+KEY+name+hash+key
	key, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(key) != 1+ed25519.SeedSize {
		return "", errors.New("reading the log key: not an Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("reading the log key: not an Ed25519 key")
	}
	return note.NewEd25519VerifierKey(s.Name(), public)
}
