package pki

import (
	"crypto/tls"
	"fmt"
	"time"
)

// ServerConfig returns the configuration of a server: TLS 1.3 alone, a client
// certificate below the root required, the store's current credential for each
// new connection. v decides which sites' clients are let in.
//
// Sessions are never resumed, on either side: a resumed session skips the
// certificates, and with them whatever expired or was revoked since. For the
// same reason all checks are in VerifyConnection, which runs for every
// connection; VerifyPeerCertificate does not. A caller that adds a check wraps
// VerifyConnection and calls the one it found first.
func ServerConfig(store *Store, v *Verifier) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              v.roots.Clone(),
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			certificate := store.Current().TLS()
			return &certificate, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := v.VerifyConnection(cs, UsageClient, time.Now())
			return err
		},
	}
}

// ClientConfig returns the configuration of a client: TLS 1.3 alone, the
// store's current credential for each new connection, a server below the root
// that carries serverName among its DNS names and that accept agrees to.
// serverName is a DNS name and is also sent as SNI; for a broker it is the
// site's host, "{site}.{trust-domain}", which every broker of the site carries.
// A DNS name does not tell a broker from another server of the site: accept must check
// role and site, and without it every server is refused.
//
// Sessions are never resumed (see ServerConfig): ClientSessionCache is nil and
// must stay so.
func ClientConfig(store *Store, v *Verifier, serverName string, accept func(Identity) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		RootCAs:                v.roots.Clone(),
		ServerName:             serverName,
		SessionTicketsDisabled: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certificate := store.Current().TLS()
			return &certificate, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			// Dialers fill an empty ServerName with the address dialled.
			if serverName == "" || cs.ServerName != serverName {
				return fmt.Errorf("verifying server: %w: it was not asked for as %q", ErrConnection, serverName)
			}
			id, err := v.VerifyConnection(cs, UsageServer, time.Now())
			if err != nil {
				return err
			}
			if accept == nil {
				return fmt.Errorf("verifying server: %w: no rule says which server to accept", ErrConnection)
			}
			if err := accept(id); err != nil {
				return fmt.Errorf("accepting server %s: %w", id, err)
			}
			return nil
		},
	}
}
