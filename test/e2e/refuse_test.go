package e2e

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// arena is a broker in a process of its own, with an operator who would see
// whatever it let through, and an honest sensor that shows that it lives.
type arena struct {
	*bank
	process *process
	tap     *tap
	fence   *fence
}

func newArena(t *testing.T) *arena {
	t.Helper()
	b := newBank(t, func(inv *provision.Inventory) {
		melb := &inv.Sites[0]
		melb.Sensors = append(melb.Sensors, provision.Sensor{Name: "web-2"}, provision.Sensor{Name: "web-3"})
		address := freePort(t) // nothing listens there
		inv.Sites = append(inv.Sites, provision.Site{
			Name: "perth", Networks: melb.Networks,
			Brokers: []provision.Broker{{Name: "broker-1", Listen: address, Address: address}},
			Sensors: []provision.Sensor{{Name: "web-1"}},
		})
	})
	b.forgiving(t)
	a := &arena{bank: b, process: b.daemon(t, pki.RoleBroker)}
	a.process.awaitLog(t, 0, entry{"msg": "broker listens"})
	a.tap, a.fence = b.tap(t), b.fence(t, "web-3")
	return a
}

// refused lets an attack happen until the broker has logged the refusal of this
// very attempt: it writes a line for each reason once a second at most. attack
// checks what is seen at the socket and returns what the line must hold.
func (a *arena) refused(t *testing.T, reason string, attack func(t *testing.T) entry) {
	t.Helper()
	before := a.process.mark()
	for range 8 {
		want := attack(t)
		if t.Failed() {
			return
		}
		want["reason"] = reason
		for deadline := time.Now().Add(1100 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if len(a.process.logged(before, want)) > 0 {
				a.fence.pass(t, a.tap)
				return
			}
		}
	}
	t.Errorf("the broker logs no refusal for %q", reason)
}

// remote says in the broker's words which connection it was.
func remote(c *rawmqtt.Client) entry { return entry{"remote": c.Conn.LocalAddr().String()} }

// closed demands that the broker ends the connection.
func closed(t *testing.T, c *rawmqtt.Client) {
	t.Helper()
	if err := c.Closed(10 * time.Second); errors.Is(err, rawmqtt.ErrNotClosed) {
		t.Error("the connection stays open")
	}
}

func TestRefuseConnections(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	web1 := a.steal(t, pki.RoleSensor, "web-1")
	monitor := a.steal(t, pki.RoleMonitor, "mon-1")
	expired := a.mint(t, web1.id, time.Second)
	// Another deployment, all of whose names are the same.
	foreign := newBank(t).steal(t, pki.RoleSensor, "web-1")
	alone := web1.cert
	alone.Certificate = alone.Certificate[:1]

	t.Run("TLS", func(t *testing.T) {
		ancient := a.tlsConfig(t, web1.cert)
		ancient.MaxVersion = tls.VersionTLS12
		perth := a.stealAt(t, "perth", pki.RoleSensor, "web-1")
		for _, test := range []struct {
			name   string
			config *tls.Config // nil: no TLS
			id     pki.Identity
			reason string
		}{
			{"no TLS", nil, web1.id, "handshake"},
			{"TLS 1.2", ancient, web1.id, "handshake"},
			{"no client certificate", a.tlsConfig(t), web1.id, "handshake"},
			{"foreign CA with the same names", a.tlsConfig(t, foreign.cert), web1.id, "certificate"},
			{"another site's CA below the same root", a.tlsConfig(t, perth.cert), perth.id, "certificate"},
			{"another site's sensor as one of this site", a.tlsConfig(t, perth.cert), web1.id, "certificate"},
			{"without its issuer", a.tlsConfig(t, alone), web1.id, "certificate"},
			{"expired", a.tlsConfig(t, expired.cert), web1.id, "certificate"},
		} {
			t.Run(test.name, func(t *testing.T) {
				if test.name == "expired" {
					time.Sleep(time.Until(expired.cert.Leaf.NotAfter.Add(time.Second))) // X.509 counts seconds
				}
				a.refused(t, test.reason, func(t *testing.T) entry {
					c := a.dial(t, test.config)
					// With the identifier that would be right if the certificate were.
					if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: test.id.ClientID(), KeepAlive: 30}); err == nil {
						t.Errorf("answered with code %d", code)
					}
					closed(t, c)
					return remote(c)
				})
			})
		}
	})

	t.Run("CONNECT", func(t *testing.T) {
		own := web1.id.ClientID()
		for _, test := range []struct {
			name    string
			options rawmqtt.ConnectOptions
			code    byte
			reason  string
		}{
			{"another's client ID", rawmqtt.ConnectOptions{ClientID: "melb_sensor_web-2", KeepAlive: 30}, rawmqtt.BadIdentifier, "client_id"},
			{"the monitor's client ID", rawmqtt.ConnectOptions{ClientID: monitor.id.ClientID(), KeepAlive: 30}, rawmqtt.BadIdentifier, "client_id"},
			{"a person's second client ID", rawmqtt.ConnectOptions{ClientID: own + "_2", KeepAlive: 30}, rawmqtt.BadIdentifier, "client_id"},
			{"no client ID", rawmqtt.ConnectOptions{KeepAlive: 30}, rawmqtt.BadIdentifier, "client_id"},
			{"mochi's inline client ID", rawmqtt.ConnectOptions{ClientID: "inline", KeepAlive: 30}, rawmqtt.BadIdentifier, "client_id"},
			{"MQTT 5", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Level: 5}, rawmqtt.BadVersion, "version"},
			{"MQTT 3.1", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Level: 3, Protocol: "MQIsdp"}, rawmqtt.BadVersion, "version"},
			{"will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, WillTopic: web1.topic(wire.KindCPU), WillBody: "x"}, rawmqtt.NotAuthorized, "will"},
			{"retained public will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, WillTopic: "public/a", WillBody: "x", WillRetain: true}, rawmqtt.NotAuthorized, "will"},
			{"persistent session", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Persistent: true}, rawmqtt.NotAuthorized, "persistent_session"},
			{"password", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Username: "u", Password: "p"}, rawmqtt.BadCredential, "credential"},
			{"no keep-alive", rawmqtt.ConnectOptions{ClientID: own}, rawmqtt.NotAuthorized, "keep_alive"},
		} {
			t.Run(test.name, func(t *testing.T) {
				a.refused(t, test.reason, func(t *testing.T) entry {
					c := a.dial(t, a.tlsConfig(t, web1.cert))
					if code, err := c.Connect(test.options); err != nil || code != test.code {
						t.Errorf("answered with code %d, %v; want %d", code, err, test.code)
					}
					closed(t, c)
					return remote(c)
				})
			})
		}
	})
}

func TestRefuseFilters(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	clients := map[pki.Role]*rawmqtt.Client{}
	for role, name := range map[pki.Role]string{
		pki.RoleSensor: "web-1", pki.RoleController: "lb-1", pki.RoleMonitor: "mon-1", pki.RoleViewer: "vera", pki.RoleOperator: "alice",
	} {
		clients[role] = a.connect(t, a.steal(t, role, name))
	}
	id := uint16(0)
	for _, test := range []struct {
		role   pki.Role
		filter string
		reason string
	}{
		{pki.RoleOperator, "$SYS/#", "filter"},
		{pki.RoleOperator, "$share/g/melb/bank_server/metrics/cpu/+", "filter"},
		{pki.RoleMonitor, "$share/g/melb/bank_server/control/command/+/+", "filter"},
		{pki.RoleSensor, "melb/bank_server/alerts/+", "not_subscriber"},
		{pki.RoleSensor, "melb/bank_server/control/command/+/+", "not_subscriber"},
		{pki.RoleSensor, "melb/bank_server/metrics/cpu/web-2", "not_subscriber"},
		{pki.RoleSensor, "melb/bank_server/acks/rec-1/sensor/web-2", "not_subscriber"},
		{pki.RoleController, "melb/bank_server/metrics/cpu/+", "not_subscriber"},
		{pki.RoleMonitor, "melb/bank_server/digests/+/+", "not_subscriber"},
		{pki.RoleViewer, "melb/bank_server/alerts/+", "not_subscriber"},
		{pki.RoleViewer, "melb/bank_server/control/command/monitor/mon-1", "not_subscriber"},
		{pki.RoleOperator, "melb/bank_server/revocations/+", "not_subscriber"},
		{pki.RoleOperator, "melb/bank_server/metrics/#", "not_subscriber"},
		{pki.RoleOperator, "#", "not_subscriber"},
		{pki.RoleOperator, "+/bank_server/metrics/cpu/+", "not_subscriber"},
		{pki.RoleOperator, "perth/bank_server/metrics/cpu/+", "not_subscriber"},
		{pki.RoleMonitor, "perth/bank_server/metrics/cpu/web-1", "not_subscriber"},
	} {
		t.Run(string(test.role)+" "+strings.ReplaceAll(test.filter, "/", "."), func(t *testing.T) {
			a.refused(t, test.reason, func(t *testing.T) entry {
				id++
				codes, err := clients[test.role].Subscribe(id, 0, test.filter)
				if err != nil || len(codes) != 1 || codes[0] != rawmqtt.Refused {
					t.Errorf("SUBACK with codes %x, %v; want 80", codes, err)
				}
				return entry{"filter": test.filter}
			})
		})
	}
}

// What ends the connection: a publication that no honest client of that
// certificate would make.
func TestRefusePublications(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	web1, web2 := a.steal(t, pki.RoleSensor, "web-1"), a.steal(t, pki.RoleSensor, "web-2")
	monitor, controller := a.steal(t, pki.RoleMonitor, "mon-1"), a.steal(t, pki.RoleController, "lb-1")
	operator := a.steal(t, pki.RoleOperator, "alice")
	perth := a.stealAt(t, "perth", pki.RoleSensor, "web-1")
	// Every message is perfect, but for who sends it.
	for _, test := range []struct {
		name    string
		as      *party
		message func(t *testing.T) (topic string, raw []byte)
		retain  bool
		qos     byte
		reason  string
	}{
		{"retained", web1, web1.reading, true, 1, "retain"},
		{"QoS 2", web1, web1.reading, false, 2, "qos"},
		{"another sensor's name", web1, web2.reading, false, 1, "not_publisher"},
		{"a sensor's alert", web1, monitor.alert, false, 1, "not_publisher"},
		{"a sensor's command", web1, monitor.command, false, 1, "not_publisher"},
		{"a monitor's reading", monitor, web1.reading, false, 1, "not_publisher"},
		{"a controller's command", controller, monitor.command, false, 1, "not_publisher"},
		{"a person's reading", operator, web1.reading, false, 1, "not_publisher"},
		{"a person's command", operator, monitor.command, false, 1, "not_publisher"},
		{"another site's reading", web1, perth.reading, false, 1, "not_publisher"},
		{"on $SYS", web1, func(t *testing.T) (string, []byte) { return "$SYS/broker/version", []byte("x") }, false, 1, "topic"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.refused(t, test.reason, func(t *testing.T) entry {
				c := a.connect(t, test.as)
				topic, raw := test.message(t)
				if err := c.Send(rawmqtt.Publish(rawmqtt.Message{Topic: topic, Payload: raw, QoS: test.qos, ID: 1, Retain: test.retain})); err != nil {
					t.Fatal(err)
				}
				closed(t, c)
				a.fence.pass(t, a.tap)
				if n := a.tap.saw(raw); n != 0 {
					t.Errorf("the operator has seen it %d times", n)
				}
				return remote(c)
			})
		})
	}
}

// What is acknowledged and goes nowhere: a message that the certificate may
// publish there, were it not for what it says.
func TestRefuseMessages(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	web1, web2, monitor := a.steal(t, pki.RoleSensor, "web-1"), a.steal(t, pki.RoleSensor, "web-2"), a.steal(t, pki.RoleMonitor, "mon-1")
	topic, alerts := web1.topic(wire.KindCPU), monitor.topic(wire.KindAlert)
	clients := map[*party]*rawmqtt.Client{web1: a.connect(t, web1), web2: a.connect(t, web2), monitor: a.connect(t, monitor)}
	// reading returns a message of web-1 that is honest but for what edit does.
	reading := func(edit func(h *envelope.Header)) func(*testing.T) []byte {
		return func(t *testing.T) []byte {
			h := web1.header(topic)
			edit(&h)
			return web1.seal(t, h, web1.cpu(99))
		}
	}
	text := func(s string) func(*testing.T) []byte { return func(*testing.T) []byte { return []byte(s) } }
	known := func(t *testing.T, p *party, topic string, raw []byte) {
		t.Helper()
		publish(t, clients[p], topic, raw)
		await(t, 10*time.Second, "an honest message arrives", func() bool { return a.tap.saw(raw) == 1 })
	}
	for _, test := range []struct {
		name   string
		as     *party
		topic  string
		attack func(t *testing.T) []byte
		seen   int // by honest publication before
		reason string
	}{
		{"the report's plain JSON", web1, topic, text(`{"cpu_usage":99.5,"timestamp":1729697327.82,"server":"web-1","note":"as it was before there were envelopes"}`), 0, "kid"},
		{"empty", web1, topic, text(""), 0, "size"},
		{"longer than its class", web1, topic, text(`{"v":1,"kid":"` + strings.Repeat("a", 5000)), 0, "size"},
		{"white space before the payload", web1, topic, func(t *testing.T) []byte {
			return []byte(strings.Replace(string(reading(func(*envelope.Header) {})(t)), `"payload":`, `"payload": `, 1))
		}, 0, "payload"},
		{"white space before ts", web1, topic, func(t *testing.T) []byte {
			return []byte(strings.Replace(string(reading(func(*envelope.Header) {})(t)), `"ts":`, `"ts": `, 1))
		}, 0, "grammar"},
		{"a member twice", web1, topic, func(t *testing.T) []byte {
			return []byte(strings.Replace(string(reading(func(*envelope.Header) {})(t)), `"payload":{`, `"payload":{"cpu_usage":1,`, 1))
		}, 0, "payload"},
		{"another sender's kid and key", web1, topic, func(t *testing.T) []byte {
			return web2.seal(t, web2.header(topic), web1.cpu(99))
		}, 0, "sender"},
		{"another topic inside", web1, topic, reading(func(h *envelope.Header) { h.Topic = web1.topic(wire.KindRAM) }), 0, "topic"},
		{"another site's topic inside", web1, topic, reading(func(h *envelope.Header) { h.Topic = "perth" + strings.TrimPrefix(topic, "melb") }), 0, "topic"},
		{"31 s old", web2, web2.topic(wire.KindCPU), func(t *testing.T) []byte {
			h := web2.header(web2.topic(wire.KindCPU)) // of a sender that has said nothing since
			older(&h)
			return web2.seal(t, h, web2.cpu(99))
		}, 0, "stale"},
		{"31 s from the future", web1, topic, reading(func(h *envelope.Header) { h.Time += 31_000 }), 0, "future"},
		{"a start in the future", web1, topic, reading(func(h *envelope.Header) { h.Nonce.Boot += 60_000 }), 0, "future"},
		{"unsigned alert", monitor, alerts, func(t *testing.T) []byte { return monitor.seal(t, monitor.header(alerts), monitor.anAlert()) }, 0, "unsigned"},
		{"the same bytes again", web1, topic, func(t *testing.T) []byte {
			raw := reading(func(*envelope.Header) {})(t)
			known(t, web1, topic, raw)
			return raw
		}, 1, "redelivered"},
		{"a signed message again", monitor, alerts, func(t *testing.T) []byte {
			_, raw := monitor.alert(t)
			known(t, monitor, alerts, raw)
			return raw
		}, 1, "redelivered"},
		{"the same nonce again over other bytes", web1, topic, func(t *testing.T) []byte {
			h := web1.header(topic)
			known(t, web1, topic, web1.seal(t, h, web1.cpu(3)))
			return web1.seal(t, h, web1.cpu(99))
		}, 0, "nonce_collision"},
		{"below the window", web1, topic, func(t *testing.T) []byte {
			h := web1.header(topic)
			web1.seq += 5000
			known(t, web1, topic, web1.seal(t, web1.header(topic), web1.cpu(3)))
			return web1.seal(t, h, web1.cpu(99))
		}, 0, "replayed"},
		{"of an earlier start", web1, topic, reading(func(h *envelope.Header) {
			h.Nonce.Boot--
			h.Time -= 25_000 // before the first of the newer start: late, and no clone
		}), 0, "replayed"},
		{"of an earlier start that still runs", web1, topic, reading(func(h *envelope.Header) { h.Nonce.Boot-- }), 0, "cloned"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.refused(t, test.reason, func(t *testing.T) entry {
				raw := test.attack(t)
				publish(t, clients[test.as], test.topic, raw)
				a.fence.pass(t, a.tap)
				if n := a.tap.saw(raw); n != test.seen {
					t.Errorf("the operator has seen it %d times, want %d", n, test.seen)
				}
				want := remote(clients[test.as])
				want["topic"] = test.topic
				return want
			})
		})
	}
}
