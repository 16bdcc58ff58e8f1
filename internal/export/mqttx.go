package export

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"levee/pki"
	"levee/pki/pkcs12"
)

// The files of exports for other programs.
const (
	FileMQTTX  = "mqttx.json" // connections to import
	FilePKCS12 = "client.p12" // for browsers; opens under the passphrase that was shown once
)

// connection is one entry of a file that MQTTX imports (version 1.9 and later
// read it; its form is that of MQTTX's own export). It names its files by
// absolute path: MQTTX reads them when it connects.
type connection struct {
	ClientID           string         `json:"clientId"`
	Name               string         `json:"name"`
	Clean              bool           `json:"clean"`
	Protocol           string         `json:"protocol"`
	Host               string         `json:"host"`
	Port               int            `json:"port"`
	KeepAlive          int            `json:"keepalive"`
	ConnectTimeout     int            `json:"connectTimeout"`
	Reconnect          bool           `json:"reconnect"`
	ReconnectPeriod    int            `json:"reconnectPeriod"` // ms
	Username           string         `json:"username"`
	Password           string         `json:"password"`
	Path               string         `json:"path"`
	MQTTVersion        string         `json:"mqttVersion"`
	SSL                bool           `json:"ssl"`
	CertType           string         `json:"certType"`
	RejectUnauthorized bool           `json:"rejectUnauthorized"`
	CA                 string         `json:"ca"`
	Cert               string         `json:"cert"`
	Key                string         `json:"key"`
	UnreadMessageCount int            `json:"unreadMessageCount"`
	Messages           []struct{}     `json:"messages"`
	Subscriptions      []subscription `json:"subscriptions"`
	Properties         struct{}       `json:"properties"`
	Will               will           `json:"will"`
}

type subscription struct {
	Topic    string `json:"topic"`
	QoS      int    `json:"qos"`
	Disabled bool   `json:"disabled"`
	Alias    string `json:"alias"`
	Retain   bool   `json:"retain"`
	Color    string `json:"color"`
	CreateAt string `json:"createAt"`
}

// will is none: a broker of ours refuses connections that have one.
type will struct {
	Topic   string `json:"lastWillTopic"`
	Payload string `json:"lastWillPayload"`
	QoS     int    `json:"lastWillQos"`
	Retain  bool   `json:"lastWillRetain"`
}

// maxSubscriptions is how many filters one SUBSCRIBE may have (broker). MQTTX
// sends them all in one.
const maxSubscriptions = 8

// MQTTX writes an export with a file of connections that MQTTX imports, one for
// each broker.
func MQTTX(o Options, now time.Time) (*Result, error) {
	s, out, err := open(o, now)
	if err != nil {
		return nil, err
	}
	page, err := s.readme()
	if err != nil {
		return nil, err
	}
	var connections []connection
	for _, b := range s.brokers {
		port, err := strconv.Atoi(b.Port)
		if err != nil {
			return nil, fmt.Errorf("the site document's broker %s has port %q", b.Name, b.Port)
		}
		c := connection{
			ClientID: s.clientID, Name: s.id.Sender() + " at " + b.Name, Clean: true, Protocol: "mqtts", Host: b.Host, Port: port,
			KeepAlive: 30, ConnectTimeout: 10, Reconnect: true, ReconnectPeriod: 4000, MQTTVersion: "3.1.1",
			SSL: true, CertType: "self", RejectUnauthorized: true,
			CA: filepath.Join(out, FileRoot), Cert: filepath.Join(out, FileChain), Key: filepath.Join(out, FileKey),
			Messages: []struct{}{}, Subscriptions: []subscription{},
		}
		for _, filter := range s.rights.Subscriptions() {
			if len(c.Subscriptions) < maxSubscriptions {
				c.Subscriptions = append(c.Subscriptions, subscription{Topic: filter, QoS: 1, Color: "#34c388", CreateAt: now.UTC().Format("2006-01-02 15:04:05:000")})
			}
		}
		connections = append(connections, c)
	}
	text, err := json.MarshalIndent(connections, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", FileMQTTX, err)
	}
	files := s.common(page)
	files[FileMQTTX] = append(text, '\n')
	if err := write(out, files); err != nil {
		return nil, fmt.Errorf("writing the export: %w", err)
	}
	r := s.result(out)
	r.Try = []string{"in MQTTX: Connections, the menu beside the search field, Import data, JSON, " + filepath.Join(out, FileMQTTX)}
	return r, nil
}

// PKCS12 writes a person's certificate and key for browsers, and returns the
// passphrase that opens the file: there is no other copy of it.
func PKCS12(o Options, now time.Time) (*Result, pkcs12.Passphrase, error) {
	s, out, err := open(o, now)
	if err != nil {
		return nil, pkcs12.Passphrase{}, err
	}
	private, err := pki.ParseKey(s.key)
	if err != nil {
		return nil, pkcs12.Passphrase{}, fmt.Errorf("%s: %w", s.id.Sender(), err)
	}
	file, passphrase, err := pkcs12.Encode(private, s.credential.Leaf(), s.credential.Issuer())
	if err != nil {
		return nil, pkcs12.Passphrase{}, fmt.Errorf("%s: %w", s.id.Sender(), err)
	}
	if err := write(out, map[string][]byte{FilePKCS12: file, FileRoot: pki.MarshalCertificates(s.trust.Root)}); err != nil {
		return nil, pkcs12.Passphrase{}, fmt.Errorf("writing the export: %w", err)
	}
	return s.result(out), passphrase, nil
}
