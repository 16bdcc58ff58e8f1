package e2e

import (
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/enrol"
	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/test/processes"
)

// pkiCommand runs levee pki, and returns what it said and whether it was done.
func pkiCommand(args ...string) (string, error) {
	out, err := exec.Command(filepath.Join(bin, "levee"), append([]string{"pki"}, args...)...).CombinedOutput()
	return string(out), err
}

// must is pkiCommand for what has to be done.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := pkiCommand(args...)
	if err != nil {
		t.Fatalf("levee pki %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// asks has the machine of a bundle make its key, and returns that as tokens
// name it.
func asks(t *testing.T, bundle string) string {
	t.Helper()
	var asked struct{ Key string }
	if err := json.Unmarshal([]byte(must(t, "join", bundle, "--json")), &asked); err != nil {
		t.Fatal(err)
	}
	return asked.Key
}

// A new sensor joins a running site: its key is made where it runs, a person
// signs a token for that key, and its first reading appears. The token is of no
// use to anybody else, nor for a second machine.
func TestJoin(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t, renewing(t, time.Hour), func(inv *provision.Inventory) {
		inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, provision.Sensor{Name: "web-9"})
	})
	web9 := pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: "web-9"}
	here, elsewhere := filepath.Join(t.TempDir(), "sensor"), filepath.Join(t.TempDir(), "sensor")
	for _, to := range []string{here, elsewhere} { // a thief has the same files
		must(t, "export", "--to", "join", "--bundle", b.layout.Bundle(web9), "--out", to)
	}
	file := filepath.Join(here, "levee-sensor.yaml")
	processes.Edit(t, file, "interval: 5s", "interval: 1s\ndigest_interval: 3s")
	running := make(map[pki.Role]*process)
	for _, role := range []pki.Role{pki.RoleBroker, pki.RoleRecorder, pki.RoleIssuer, pki.RoleMonitor} {
		running[role] = b.daemon(t, role)
		if role != pki.RoleBroker {
			running[role].awaitLog(t, 0, entry{"msg": "connected"})
		}
	}
	issuer := running[pki.RoleIssuer]
	seen := b.watchAs(t, pki.RoleOperator)

	key, stranger := asks(t, here), asks(t, elsewhere)
	if key == stranger {
		t.Fatal("two machines have one key")
	}
	token := filepath.Join(t.TempDir(), "token")
	t.Log(b.order(t, "token", "melb/sensor/web-9", "--key", key, "--to", token, "--reason", "new server"))
	if out, err := pkiCommand("join", elsewhere, "--token", token); err == nil || !strings.Contains(out, "is for key "+key) {
		t.Errorf("the token served another key: %v\n%s", err, out)
	}
	t.Log(must(t, "join", here, "--token", token))
	issuer.awaitLog(t, 0, entry{"msg": "certificate issued", "sender": "melb/sensor/web-9", "cause": "join"})

	start(t, "levee-sensor", "--config", file)
	l := seen.await(t, 30*time.Second, "its first reading", func(l feed.Line) bool {
		return strings.HasPrefix(l.Kind, "metrics/") && l.Sender == "melb/sensor/web-9"
	})
	seen.await(t, 30*time.Second, "its readings are confirmed", func(l feed.Line) bool {
		return l.Kind == "confirmation" && l.Verification == "confirmed" && l.Sender == "melb/sensor/web-9"
	})
	t.Logf("its first reading is %s", l.Verification)

	// A thief with the files, the token, and a request of its own goes to the
	// issuer directly.
	thief := joinDirectly(t, elsewhere, token)
	if thief == nil || !strings.Contains(thief.Error(), "(403): key: ") {
		t.Errorf("the issuer let another key join with a token that was used: %v", thief)
	}
	issuer.awaitLog(t, 0, entry{"reason": "key", "path": "/v1/join"})
	if out, err := pkiCommand("join", here, "--token", token); err == nil || !strings.Contains(out, "has a certificate already") {
		t.Errorf("joined twice: %v\n%s", err, out)
	}
	if n := len(issuer.logged(0, entry{"msg": "certificate issued", "cause": "join"})); n != 1 {
		t.Errorf("%d certificates were issued", n)
	}
	for _, name := range []string{"tls.pem", "state"} {
		if _, err := os.Lstat(filepath.Join(elsewhere, name)); err == nil {
			t.Errorf("the thief has %s", name)
		}
	}
}

// joinDirectly hands the token to the issuer with the key of a bundle, and
// without the checks that levee pki join makes first.
func joinDirectly(t *testing.T, bundle, tokenFile string) error {
	t.Helper()
	part := struct {
		site.Settings `yaml:",inline"`
		Rest          map[string]any `yaml:",inline"`
	}{}
	if err := config.Load(filepath.Join(bundle, "levee-sensor.yaml"), &part); err != nil {
		t.Fatal(err)
	}
	trust, err := site.OpenTrust(part.Settings, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	request, err := os.ReadFile(filepath.Join(bundle, "join.csr"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(request)
	client, err := enrol.New(enrol.Config{Address: part.Issuer, Verifier: trust.Verifier, Host: "melb.bank.example"})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = client.Join(t.Context(), block.Bytes, token)
	return err
}
