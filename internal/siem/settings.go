package siem

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"levee/internal/config"
	"levee/internal/durable"
	"levee/pki"
)

// Format says what a line is.
type Format string

// The formats.
const (
	CEF  Format = "cef"
	OCSF Format = "ocsf"
)

var formats = map[Format]func([]byte, Event, origin, string) []byte{CEF: appendCEF, OCSF: appendOCSF}

// Settings are the section `siem` of a configuration file. Without an address
// there is no SIEM.
type Settings struct {
	// Address is where the receiver listens: host and port.
	Address string `yaml:"address,omitempty"`
	// ServerName is what its certificate must name; the host of Address if absent.
	ServerName string `yaml:"server_name,omitempty"`
	// CA is the file with the certificates of the authorities that it may end at:
	// these alone.
	CA config.Path `yaml:"ca,omitempty"`
	// Certificate and Key are what we show it, both or neither. They are nothing of
	// levee's own.
	Certificate config.Path `yaml:"certificate,omitempty"`
	Key         config.Path `yaml:"key,omitempty"`
	// Format is CEF or OCSF; CEF if absent.
	Format Format `yaml:"format,omitempty"`
}

// Configured reports whether there is a SIEM.
func (s Settings) Configured() bool { return s != Settings{} }

// maxFile bounds each file in bytes.
const maxFile = 1 << 20

func (s Settings) check() (Settings, error) {
	host, port, err := net.SplitHostPort(s.Address)
	switch {
	case err != nil || host == "" || port == "" || port == "0":
		return s, fmt.Errorf("address: %q is no host and port", s.Address)
	case s.CA == "":
		return s, errors.New("ca: without the receiver's authority nobody can be told from it")
	case (s.Certificate == "") != (s.Key == ""):
		return s, errors.New("certificate and key: one of them is missing")
	}
	if s.ServerName == "" {
		s.ServerName = host
	}
	if s.Format == "" {
		s.Format = CEF
	}
	if formats[s.Format] == nil {
		return s, fmt.Errorf("format: %q is neither %q nor %q", s.Format, CEF, OCSF)
	}
	_, err = s.tls()
	return s, err
}

// tls reads the files. It is asked for each connection, so that whoever renews a
// file need not start anything again. Receivers are other makers' programs: TLS
// 1.2 will do.
func (s Settings) tls() (*tls.Config, error) {
	b, err := durable.ReadFile(string(s.CA), maxFile)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName, RootCAs: x509.NewCertPool()}
	if !c.RootCAs.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca: %s holds no certificate", s.CA)
	}
	if s.Key == "" {
		return c, nil
	}
	certificate, err := durable.ReadFile(string(s.Certificate), maxFile)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	key, err := pki.ReadPrivate(string(s.Key), maxFile)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
