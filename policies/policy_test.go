package policies

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

var (
	machines = []pki.Role{
		pki.RoleBroker, pki.RoleSensor, pki.RoleMonitor, pki.RoleController, pki.RoleApprover,
		pki.RoleIssuer, pki.RoleRecorder, pki.RoleConsole, pki.RoleGuest,
	}
	people   = []pki.Role{pki.RoleOperator, pki.RoleViewer, pki.RoleAuditor}
	everyone = slices.Concat(machines, people)
	senders  = []pki.Role{pki.RoleBroker, pki.RoleSensor, pki.RoleMonitor, pki.RoleController, pki.RoleApprover, pki.RoleIssuer}
)

// table says who may publish and read what under the default policy. It is
// written out here, and not derived, because it is the specification.
var table = []struct {
	kind      wire.Kind
	signed    bool
	publisher []pki.Role // each on topics that carry its own name
	reader    []pki.Role
}{
	{wire.KindCPU, false, []pki.Role{pki.RoleSensor},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleRecorder, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindRAM, false, []pki.Role{pki.RoleSensor},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleRecorder, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindNetwork, false, []pki.Role{pki.RoleSensor},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleRecorder, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindAlert, true, []pki.Role{pki.RoleMonitor},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleOperator, pki.RoleRecorder}},
	{wire.KindCommand, true, []pki.Role{pki.RoleMonitor, pki.RoleApprover},
		[]pki.Role{pki.RoleController, pki.RoleMonitor, pki.RoleRecorder, pki.RoleConsole, pki.RoleOperator}},
	{wire.KindScaling, true, []pki.Role{pki.RoleController},
		[]pki.Role{pki.RoleMonitor, pki.RoleApprover, pki.RoleConsole, pki.RoleRecorder, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindRateLimiting, true, []pki.Role{pki.RoleController},
		[]pki.Role{pki.RoleMonitor, pki.RoleApprover, pki.RoleConsole, pki.RoleRecorder, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindPresence, true, []pki.Role{pki.RoleBroker},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleRecorder}},
	{wire.KindStatements, true, []pki.Role{pki.RoleApprover},
		[]pki.Role{pki.RoleMonitor, pki.RoleConsole, pki.RoleRecorder}},
	{wire.KindRevocations, true, []pki.Role{pki.RoleIssuer}, machines},
	{wire.KindDigest, true, senders,
		[]pki.Role{pki.RoleRecorder, pki.RoleConsole, pki.RoleOperator, pki.RoleViewer}},
	{wire.KindAck, false, []pki.Role{pki.RoleRecorder}, senders}, // each only what is for itself
	{wire.KindBackfill, false, senders, []pki.Role{pki.RoleRecorder}},
}

// names are those of the identities that the tests play with. One is a prefix
// of another, one is the name of a role.
var names = []string{"web-1", "web-10", "sensor"}

var sites = []string{"melb", "syd"}

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: site, Role: role, Name: name}
}

// universes holds, for each site, every protected topic that the names and
// roles can spell, whoever may use it, and topics just beside the grammar.
var universes = map[string][]string{sites[0]: universe(sites[0]), sites[1]: universe(sites[1])}

func universe(site string) []string {
	var topics []string
	for k := wire.KindCPU; k < wire.KindPublic; k++ {
		for _, name := range names {
			for _, role := range everyone {
				t := wire.Topic{Kind: k, Site: site, Role: string(role), Name: name}
				if k != wire.KindAck {
					topics = append(topics, t.String())
					continue
				}
				for _, peer := range names {
					t.PeerRole, t.PeerName = string(role), peer
					topics = append(topics, t.String())
				}
			}
		}
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	for _, t := range slices.Clone(topics) {
		last := strings.LastIndexByte(t, '/')
		topics = append(topics, t+"/more", t[:last], t[:last]+"/", t[:last]+"x"+t[last+1:], t[:last]+"x"+t[last:])
	}
	for _, t := range slices.Clone(topics) {
		topics = append(topics, strings.TrimPrefix(t, site+"/"), strings.TrimPrefix(t, site+"/"+wire.Root+"/"))
	}
	for _, parent := range []string{site, site + "/" + wire.Root, "/" + site} {
		topics = append(topics, parent, parent+"/public", parent+"/public/x")
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return p
}

func TestDefaultGrantsExactlyTheTable(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, role := range everyone {
		id := identity("melb", role, "web-1")
		rights := p.Rights(id)
		for _, topic := range universes["melb"] {
			publish, receive := false, false
			if parsed, err := wire.ParseTopic(topic); err == nil {
				publish, receive = expected(id, parsed)
			}
			if got := rights.MayPublish(topic); got != publish {
				t.Errorf("%s: MayPublish(%q) = %t, want %t", id, topic, got, publish)
			}
			if got := rights.MayReceive(topic); got != receive {
				t.Errorf("%s: MayReceive(%q) = %t, want %t", id, topic, got, receive)
			}
			if got := rights.MaySubscribe(topic); got != receive {
				t.Errorf("%s: MaySubscribe(%q) = %t, want %t", id, topic, got, receive)
			}
		}
	}
}

// expected reads the table for one identity and one protected topic.
func expected(id pki.Identity, topic wire.Topic) (publish, receive bool) {
	for _, row := range table {
		if row.kind != topic.Kind {
			continue
		}
		publish = topic.Site == id.Site && topic.Name == id.Name && topic.Role == string(id.Role) &&
			slices.Contains(row.publisher, id.Role)
		receive = topic.Site == id.Site && slices.Contains(row.reader, id.Role)
		if row.kind == wire.KindAck {
			receive = receive && topic.PeerRole == string(id.Role) && topic.PeerName == id.Name
		}
	}
	return publish, receive
}

func TestPublicIsForEveryCertificate(t *testing.T) {
	p := mustParse(t, defaultFile)
	allowed := []string{"public", "public/hello", "public/a/b/c/d/e/f/g"}
	refused := []string{"", "public/", "public//a", "Public", "publico", "publico/a", "publicoa", "publicoa/b", "public/A", "public/a b",
		"public/+", "public/#", "public/$x", "public/a/b/c/d/e/f/g/h", "public/" + strings.Repeat("a", 33),
		"public/" + strings.Repeat(strings.Repeat("a", 32)+"/", 5) + strings.Repeat("a", 32)} // 204 bytes
	for _, role := range everyone {
		r := p.Rights(identity("melb", role, "web-1"))
		for _, topic := range allowed {
			if !r.MayPublish(topic) || !r.MayReceive(topic) || !r.MaySubscribe(topic) {
				t.Errorf("%s: %q is refused", role, topic)
			}
		}
		for _, topic := range refused {
			if r.MayPublish(topic) || r.MayReceive(topic) {
				t.Errorf("%s: %q is allowed", role, topic)
			}
		}
		for _, filter := range []string{"public/#", "public/+", "public/+/#", "public/+/x"} {
			if !r.MaySubscribe(filter) {
				t.Errorf("%s: filter %q is refused", role, filter)
			}
		}
	}
}

func TestNothingOfAnotherSite(t *testing.T) {
	checkInvariants(t, mustParse(t, defaultFile))
}

// checkInvariants holds for every policy that Parse accepts, whatever it
// grants. The fuzz target calls it too.
func checkInvariants(t *testing.T, p *Policy) {
	t.Helper()
	for i, site := range sites {
		other := universes[sites[1-i]]
		own := universes[site]
		for _, role := range everyone {
			id := identity(site, role, names[0])
			r := p.Rights(id)
			for _, topic := range other {
				if r.MayPublish(topic) || r.MayReceive(topic) || r.MaySubscribe(topic) {
					t.Fatalf("%s reaches %q", id, topic)
				}
			}
			for _, topic := range own {
				if !r.MayPublish(topic) {
					continue
				}
				parsed, err := wire.ParseTopic(topic)
				if err != nil || parsed.Sender() != id.Sender() {
					t.Fatalf("%s may publish %q", id, topic)
				}
				if parsed.Kind == wire.KindCommand && role != pki.RoleMonitor && role != pki.RoleApprover {
					t.Fatalf("%s may publish the command topic %q", id, topic)
				}
			}
			for _, filter := range r.Subscriptions() {
				if !r.MaySubscribe(filter) || !strings.HasPrefix(filter, site+"/") && !strings.HasPrefix(filter, "public") {
					t.Fatalf("%s is told to subscribe to %q", id, filter)
				}
			}
		}
	}
	for k := wire.KindNone; k <= wire.KindPublic+1; k++ {
		c := p.Class(k)
		if c.Protected != (wire.Topic{Kind: k}).Protected() && k <= wire.KindPublic {
			t.Fatalf("class of %s: protected is %t", k, c.Protected)
		}
		for _, row := range table {
			if row.kind == k && row.signed && !c.Signed {
				t.Fatalf("class of %s is not signed", k)
			}
		}
		if c.MaxBytes < 0 || c.MaxBytes > 64<<10 {
			t.Fatalf("class of %s: %d bytes", k, c.MaxBytes)
		}
	}
	for _, role := range everyone {
		if len(p.KeyRoles(role)) > 0 && !slices.Contains(mayHoldKeys, role) {
			t.Fatalf("%s holds keys of %q", role, p.KeyRoles(role))
		}
	}
	if a, ok := p.Automatic(wire.ScaleUpServers); ok && slices.Contains(a.Causes, "ram_usage") {
		t.Fatal("memory starts servers")
	}
	if _, ok := p.Automatic(wire.HoldAutomation); ok {
		t.Fatal("automation holds itself")
	}
}

func TestUnknownIdentitiesMayNothing(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, id := range []pki.Identity{
		{},
		identity("melb", "", "web-1"),
		identity("melb", "root", "web-1"),
		identity("melb", "Sensor", "web-1"),
		identity("", pki.RoleMonitor, "web-1"),
		identity("+", pki.RoleMonitor, "web-1"),
		identity("#", pki.RoleMonitor, "web-1"),
		identity("public", pki.RoleMonitor, "web-1"),
		identity("ops", pki.RoleMonitor, "web-1"),
		identity("melb/bank_server", pki.RoleMonitor, "web-1"),
		identity("melb", pki.RoleSensor, ""),
		identity("melb", pki.RoleSensor, "+"),
		identity("melb", pki.RoleSensor, "#"),
		identity("melb", pki.RoleSensor, "web-1/x"),
		identity("melb", pki.RoleSensor, "web_1"),
		identity("melb", pki.RoleSensor, strings.Repeat("a", 25)),
	} {
		r := p.Rights(id)
		if r == nil {
			t.Fatalf("%+v: nil rights", id)
		}
		denies(t, fmt.Sprintf("%+v", id), r)
	}
}

func TestZeroValuesDenyEverything(t *testing.T) {
	denies(t, "nil Rights", nil)
	denies(t, "zero Rights", &Rights{})
	var p Policy
	denies(t, "Rights of a zero Policy", p.Rights(identity("melb", pki.RoleMonitor, "m-1")))
	if c := p.Class(wire.KindCPU); c != (Class{}) {
		t.Errorf("zero Policy: class %+v", c)
	}
	if k := p.KeyRoles(pki.RoleMonitor); len(k) > 0 {
		t.Errorf("zero Policy: keys of %q", k)
	}
	if a, ok := p.Automatic(wire.EnableRateLimiting); ok || a.Permits(wire.Command{}) == nil {
		t.Error("zero Policy: an automatic command")
	}
}

func denies(t *testing.T, what string, r *Rights) {
	t.Helper()
	for _, topic := range append(slices.Clone(universes["melb"]), "", "public", "public/x", "+", "#") {
		if r.MayPublish(topic) || r.MayReceive(topic) || r.MaySubscribe(topic) {
			t.Errorf("%s: %q is allowed", what, topic)
		}
	}
	if s := r.Subscriptions(); len(s) > 0 {
		t.Errorf("%s: subscriptions %q", what, s)
	}
	if l := r.Limits(); l != (Limits{}) {
		t.Errorf("%s: limits %+v", what, l)
	}
}

func TestDefaultClasses(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, row := range table {
		c := p.Class(row.kind)
		if !c.Protected || c.Signed != row.signed || c.MaxBytes < 1 {
			t.Errorf("%s: %+v", row.kind, c)
		}
	}
	if c := p.Class(wire.KindPublic); c.Protected || c.Signed || c.MaxBytes < 1 {
		t.Errorf("public: %+v", c)
	}
	if c := p.Class(wire.KindNone); c != (Class{}) {
		t.Errorf("no kind: %+v", c)
	}
	if got := p.Class(wire.KindBackfill).MaxBytes; got != 64<<10 {
		t.Errorf("backfill: %d bytes", got)
	}
	if got := p.Skew(); got != 30*time.Second {
		t.Errorf("skew: %s", got)
	}
	if p.Hash() != sha256.Sum256(Default()) {
		t.Error("hash is not SHA-256 of the file")
	}
}

func TestDefaultKeys(t *testing.T) {
	p := mustParse(t, defaultFile)
	want := map[pki.Role][]pki.Role{
		pki.RoleMonitor:    {pki.RoleApprover, pki.RoleBroker, pki.RoleController, pki.RoleIssuer, pki.RoleMonitor, pki.RoleSensor},
		pki.RoleController: {pki.RoleApprover, pki.RoleIssuer, pki.RoleMonitor},
		pki.RoleApprover:   {pki.RoleController, pki.RoleIssuer},
		pki.RoleRecorder:   {pki.RoleApprover, pki.RoleBroker, pki.RoleController, pki.RoleIssuer, pki.RoleMonitor, pki.RoleSensor},
	}
	for _, role := range append(everyone, "nobody") {
		if got := p.KeyRoles(role); !slices.Equal(got, want[role]) {
			t.Errorf("%s holds the keys of %q, want %q", role, got, want[role])
		}
	}
}

// What a caller gets must not be a way to change the policy for others.
func TestResultsAreCopies(t *testing.T) {
	p := mustParse(t, defaultFile)
	p.KeyRoles(pki.RoleController)[0] = pki.RoleGuest
	if slices.Contains(p.KeyRoles(pki.RoleController), pki.RoleGuest) {
		t.Error("KeyRoles hands out its own slice")
	}
	a, _ := p.Automatic(wire.ScaleUpServers)
	a.Causes[0] = "ram_usage"
	if a, _ = p.Automatic(wire.ScaleUpServers); slices.Contains(a.Causes, "ram_usage") {
		t.Error("Automatic hands out its own slice")
	}
	Default()[0] = 'x'
	mustParse(t, string(Default()))
}
