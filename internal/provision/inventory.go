package provision

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"levee/internal/config"
	"levee/internal/issuance"
	"levee/internal/records"
	"levee/pki"
)

// Inventory is what a deployer writes: the sites, their components and their
// people. Everything else is made from it.
type Inventory struct {
	TrustDomain string `yaml:"trust_domain"`
	// Evaluation marks the root as made for evaluation: unsealed, seven days,
	// refused by production configurations.
	Evaluation bool `yaml:"evaluation,omitempty"`
	// Lifetimes are how long certificates last.
	Lifetimes Lifetimes `yaml:"lifetimes,omitempty"`
	Sites     []Site    `yaml:"sites"`
}

// Lifetimes are how long the certificates of each class last. Zero is the
// longest that the class may have.
type Lifetimes struct {
	Machines time.Duration `yaml:"machines,omitempty"`
	People   time.Duration `yaml:"people,omitempty"`
}

// lifetime returns how long certificates of a class last.
func (inv Inventory) lifetime(c pki.Class) time.Duration {
	asked := inv.Lifetimes.Machines
	if c == pki.ClassPerson {
		asked = inv.Lifetimes.People
	}
	if asked == 0 {
		return c.MaxLifetime()
	}
	return asked
}

// Site is one bank location.
type Site struct {
	Name string `yaml:"name"`
	// Networks are the address ranges that the certificates of the site's
	// servers may name; nothing else can be issued.
	Networks    []netip.Prefix `yaml:"networks"`
	Brokers     []Broker       `yaml:"brokers"`
	Sensors     []Sensor       `yaml:"sensors"`
	Monitors    []Monitor      `yaml:"monitors"`
	Controllers []Controller   `yaml:"controllers"`
	Recorder    string         `yaml:"recorder"` // the name of the site's one recorder
	// Log is where the recorder shows its log and witnesses other sites'; without
	// one the site takes no part in that.
	Log Log `yaml:"log,omitempty"`
	// Issuers renew the machines' certificates while the site runs: one, or none.
	Issuers  []Issuer  `yaml:"issuers,omitempty"`
	Consoles []Console `yaml:"consoles,omitempty"`
	Guests   []Guest   `yaml:"guests,omitempty"`
	People   []Person  `yaml:"people"`
}

// Broker is one broker.
type Broker struct {
	Name    string `yaml:"name"`
	Listen  string `yaml:"listen"`  // host:port to bind
	Address string `yaml:"address"` // host:port that others dial
}

// Sensor is one watched server.
type Sensor struct {
	Name string `yaml:"name"`
}

// Monitor is one monitor. Act lets it give the commands that policy lists as
// automatic; otherwise it observes.
type Monitor struct {
	Name string `yaml:"name"`
	Act  bool   `yaml:"act,omitempty"`
}

// Controller is one controller with the embedded load balancer.
type Controller struct {
	Name  string `yaml:"name"`
	Pools []Pool `yaml:"pools"`
}

// Pool is the pool of one server's backends.
type Pool struct {
	Server string `yaml:"server"` // the sensor's name
	Listen string `yaml:"listen"` // host:port of the balancer
}

// Console is one console: a page that shows what the site says.
type Console struct {
	Name   string `yaml:"name"`
	Listen string `yaml:"listen"` // loopback address:port of the page
}

// Issuer is the site's issuer.
type Issuer struct {
	Name    string `yaml:"name"`
	Listen  string `yaml:"listen"`  // host:port to bind
	Address string `yaml:"address"` // host:port that others dial
}

// Log is a site's log as others see it.
type Log struct {
	Listen  string `yaml:"listen"`  // host:port to bind
	Address string `yaml:"address"` // host:port that others dial
	// Witnesses is how many of the other sites' must have cosigned a checkpoint;
	// 0 is more than half of them.
	Witnesses int `yaml:"witnesses,omitempty"`
}

// Guest is anything else that may connect: it reads and writes public topics.
type Guest struct {
	Name string `yaml:"name"`
}

// Person is one person.
type Person struct {
	Role pki.Role `yaml:"role"`
	Name string   `yaml:"name"`
}

// minLifetime leaves room for a renewal: nothing of ours looks at a clock more
// often than each second.
const minLifetime = 10 * time.Second

// Check reports the first thing in the inventory that cannot be made.
func (inv Inventory) Check() error {
	if !pki.ValidTrustDomain(inv.TrustDomain) {
		return fmt.Errorf("inventory: %q is no trust domain", inv.TrustDomain)
	}
	if len(inv.Sites) == 0 {
		return errors.New("inventory: it has no site")
	}
	for name, class := range map[string]pki.Class{"machines": pki.ClassMachine, "people": pki.ClassPerson} {
		if d := inv.lifetime(class); d < minLifetime || d > class.MaxLifetime() {
			return fmt.Errorf("inventory: lifetimes: %s: %s is not %s to %s", name, d, minLifetime, class.MaxLifetime())
		}
	}
	seen := make(map[string]bool)
	for _, s := range inv.Sites {
		if seen[s.Name] {
			return fmt.Errorf("inventory: site %q stands twice", s.Name)
		}
		seen[s.Name] = true
		if err := s.check(inv.TrustDomain); err != nil {
			return fmt.Errorf("inventory: site %q: %w", s.Name, err)
		}
		if others := len(inv.witnesses(s)); s.Log.Witnesses < 0 || s.Log.Witnesses > others {
			return fmt.Errorf("inventory: site %q: log: %d witnesses are needed, and %d other sites have a log", s.Name, s.Log.Witnesses, others)
		}
	}
	return nil
}

func (s Site) check(trustDomain string) error {
	if !pki.ValidSite(s.Name) {
		return errors.New("not a site's name: 1 to 24 of a-z, 0-9 and -, and neither public nor ops")
	}
	if len(s.Brokers) == 0 {
		return errors.New("it has no broker")
	}
	for _, network := range s.Networks {
		if !network.IsValid() || network != network.Masked() || network.Addr().Is4In6() || network.Bits() == 0 {
			return fmt.Errorf("%q is no network, or all of them", network)
		}
	}
	seen := make(map[string]bool)
	for _, id := range s.identities(trustDomain) {
		if !pki.ValidName(id.Name) || id.Role.Class() == pki.ClassNone {
			return fmt.Errorf("%s %q: not a name of 1 to 24 of a-z, 0-9 and -, or no role", id.Role, id.Name)
		}
		if seen[id.Sender()] {
			return fmt.Errorf("%s %q stands twice", id.Role, id.Name)
		}
		seen[id.Sender()] = true
	}
	for _, p := range s.People {
		if p.Role.Class() != pki.ClassPerson {
			return fmt.Errorf("person %q: %q is not a person's role", p.Name, p.Role)
		}
	}
	addresses := make(map[string]bool)
	if len(s.Issuers) > 1 {
		return fmt.Errorf("it has %d issuers, and one is all that its journal and list of revocations allow", len(s.Issuers))
	}
	for _, i := range s.Issuers {
		if i.Name == issuance.Deployer {
			return fmt.Errorf("issuer %q: the deployer's journal has that name", i.Name)
		}
		if err := s.checkServer(i.Listen, i.Address, s.host(trustDomain)); err != nil {
			return fmt.Errorf("issuer %q: %w", i.Name, err)
		}
		addresses[i.Address] = true
	}
	for _, b := range s.Brokers {
		if err := s.checkServer(b.Listen, b.Address, s.host(trustDomain)); err != nil {
			return fmt.Errorf("broker %q: %w", b.Name, err)
		}
		if addresses[b.Address] {
			return fmt.Errorf("broker %q: another broker has the address %s, or the issuer has it", b.Name, b.Address)
		}
		addresses[b.Address] = true
	}
	if s.Log != (Log{}) {
		if s.Recorder == "" {
			return errors.New("log: it has no recorder")
		}
		if err := s.checkServer(s.Log.Listen, s.Log.Address, records.LogHost(s.host(trustDomain))); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if addresses[s.Log.Address] {
			return fmt.Errorf("log: a broker or the issuer has the address %s", s.Log.Address)
		}
	}
	for _, c := range s.Consoles {
		if err := checkLoopback(c.Listen); err != nil {
			return fmt.Errorf("console %q: %w", c.Name, err)
		}
	}
	return s.checkPools()
}

// host is that of the site's machines.
func (s Site) host(trustDomain string) string {
	return pki.Authority{TrustDomain: trustDomain, Site: s.Name, Class: pki.ClassMachine}.Host()
}

// checkServer wants an address that the server's certificate can carry: own is
// the name by which others verify it.
func (s Site) checkServer(listen, address, own string) error {
	if _, err := splitAddress(listen); err != nil {
		return err
	}
	host, err := splitAddress(address)
	if err != nil {
		return err
	}
	if host == own {
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !slices.ContainsFunc(s.Networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
		return fmt.Errorf("%q is neither an address within the site's networks nor the site's own host for it, %s", host, own)
	}
	return nil
}

func (s Site) checkPools() error {
	served, listens := make(map[string]bool), make(map[string]bool)
	for _, c := range s.Controllers {
		for _, pool := range c.Pools {
			switch {
			case !slices.Contains(s.Sensors, Sensor{Name: pool.Server}):
				return fmt.Errorf("controller %q: pool of %q, which is no sensor of the site", c.Name, pool.Server)
			case served[pool.Server]:
				return fmt.Errorf("controller %q: the pool of %q has a controller already", c.Name, pool.Server)
			}
			served[pool.Server] = true
			if err := checkLoopback(pool.Listen); err != nil {
				return fmt.Errorf("controller %q: %w", c.Name, err)
			}
			at := c.Name + " " + pool.Listen
			if listens[at] {
				return fmt.Errorf("controller %q: two pools at %s", c.Name, pool.Listen)
			}
			listens[at] = true
		}
	}
	return nil
}

// checkLoopback wants what the embedded balancer and the console listen on.
func checkLoopback(listen string) error {
	address, err := config.Loopback(listen)
	if err == nil && address.Port() == 0 {
		err = fmt.Errorf("%q names no port", listen)
	}
	return err
}

// splitAddress returns the host of host:port. Host is an IP address, a plain
// host name, or empty for all addresses; port is a number from 1.
func splitAddress(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host != "" && !pki.ValidTrustDomain(host) { // the grammar of plain host names
		_, err = netip.ParseAddr(host)
	}
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		return "", fmt.Errorf("%q is not host:port", address)
	}
	return host, nil
}

// identities returns every identity of the site below trustDomain.
func (s Site) identities(trustDomain string) []pki.Identity {
	var ids []pki.Identity
	add := func(role pki.Role, name string) {
		ids = append(ids, pki.Identity{TrustDomain: trustDomain, Site: s.Name, Role: role, Name: name})
	}
	for _, c := range s.Brokers {
		add(pki.RoleBroker, c.Name)
	}
	for _, c := range s.Sensors {
		add(pki.RoleSensor, c.Name)
	}
	for _, c := range s.Monitors {
		add(pki.RoleMonitor, c.Name)
	}
	for _, c := range s.Controllers {
		add(pki.RoleController, c.Name)
	}
	if s.Recorder != "" {
		add(pki.RoleRecorder, s.Recorder)
	}
	for _, i := range s.Issuers {
		add(pki.RoleIssuer, i.Name)
	}
	for _, c := range s.Consoles {
		add(pki.RoleConsole, c.Name)
	}
	for _, g := range s.Guests {
		add(pki.RoleGuest, g.Name)
	}
	for _, p := range s.People {
		add(p.Role, p.Name)
	}
	return ids
}
