package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"levee/pki"
)

// revoked are the certificates that were taken back, of those it is asked for.
type revoked struct {
	leaf atomic.Pointer[x509.Certificate]
}

func (r *revoked) Revoked(_ pki.Identity, leaf *x509.Certificate) bool {
	taken := r.leaf.Load()
	return taken != nil && leaf.Equal(taken)
}

// A revoked certificate is refused by servers and clients alike from the next
// connection on, while both stores go on.
func TestRevokedConnection(t *testing.T) {
	w := newWorld(t)
	var list revoked
	v := w.melbVerifier.WithRevocations(&list)
	broker, sensor := w.store(t, w.verifier, w.machines, melbBroker), w.store(t, w.verifier, w.machines, melbSensor)
	server, client := pki.ServerConfig(broker, v), pki.ClientConfig(sensor, v, melbHost, onlyBroker)
	for name, taken := range map[string]*x509.Certificate{
		"nobody":     nil,
		"the client": sensor.Current().Leaf(),
		"the server": broker.Current().Leaf(),
		"both CAs":   w.machines.Certificate, // no leaf
	} {
		list.leaf.Store(taken)
		_, serverErr, clientErr := connect(t, server, client)
		if errors.Is(serverErr, pki.ErrRevoked) != (name == "the client") || errors.Is(clientErr, pki.ErrRevoked) != (name == "the server") {
			t.Errorf("%s revoked: server %v, client %v", name, serverErr, clientErr)
		}
		if good := taken == nil || taken.IsCA; good != (serverErr == nil && clientErr == nil) {
			t.Errorf("%s revoked: server %v, client %v", name, serverErr, clientErr)
		}
	}
	// The verifier that the other was made from refuses nobody for it.
	list.leaf.Store(sensor.Current().Leaf())
	if _, serverErr, clientErr := connect(t, pki.ServerConfig(broker, w.melbVerifier), pki.ClientConfig(sensor, w.verifier, melbHost, onlyBroker)); serverErr != nil || clientErr != nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

// What a certificate was worth at an earlier time does not change when it is
// revoked: auditors ask for that, with Verify.
func TestVerifyIgnoresRevocation(t *testing.T) {
	w := newWorld(t)
	key := newKey(t, pki.RoleSensor)
	leaf := newLeaf(t, w.machines, melbSensor, key, w.now)
	var list revoked
	list.leaf.Store(leaf)
	v := w.verifier.WithRevocations(&list)
	if id, err := v.Verify(leaf, w.machines.Certificate, pki.UsageSign, w.now); err != nil || id != melbSensor {
		t.Errorf("Verify = %v, %v", id, err)
	}
	state := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{leaf, w.machines.Certificate}}
	if id, err := v.VerifyConnection(state, pki.UsageClient, w.now); !errors.Is(err, pki.ErrRevoked) || id != (pki.Identity{}) {
		t.Errorf("VerifyConnection = %v, %v", id, err)
	}
	// The walls come first: a certificate that is also too old is that.
	if _, err := v.VerifyConnection(state, pki.UsageClient, w.now.Add(60*24*time.Hour)); !errors.Is(err, pki.ErrChain) || errors.Is(err, pki.ErrRevoked) {
		t.Errorf("VerifyConnection = %v", err)
	}
}

// A ticket from before the revocation is of no use, not even to a server that
// would take it.
func TestRevokedResumption(t *testing.T) {
	w := newWorld(t)
	var list revoked
	server := pki.ServerConfig(w.store(t, w.verifier, w.machines, melbBroker), w.melbVerifier.WithRevocations(&list))
	careless := server.Clone()
	careless.SessionTicketsDisabled = false
	careless.SetSessionTicketKeys([][32]byte{{1}})
	key := newKey(t, pki.RoleSensor)
	leaf := newLeaf(t, w.machines, melbSensor, key, w.now)
	eager := raw(key, leaf, w.machines.Certificate)
	cache := &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	eager.ClientSessionCache = cache
	if _, serverErr, clientErr := connect(t, careless, eager); serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if cache.held.Load() == 0 {
		t.Fatal("the client got no ticket: nothing is tried here")
	}
	list.leaf.Store(leaf)
	if state, serverErr, _ := connect(t, server, eager); !errors.Is(serverErr, pki.ErrRevoked) || state.DidResume || cache.offered.Load() == 0 {
		t.Errorf("server %v, resumed %v, tickets offered %d", serverErr, state.DidResume, cache.offered.Load())
	}
	if _, serverErr, _ := connect(t, careless, eager); !errors.Is(serverErr, pki.ErrConnection) && !errors.Is(serverErr, pki.ErrRevoked) {
		t.Errorf("a server that resumes: %v", serverErr)
	}
}

// tickets counts what a client's cache takes in and hands out.
type tickets struct {
	tls.ClientSessionCache
	held, offered atomic.Int32
}

func (c *tickets) Get(key string) (*tls.ClientSessionState, bool) {
	state, ok := c.ClientSessionCache.Get(key)
	if ok && state != nil {
		c.offered.Add(1)
	}
	return state, ok
}

func (c *tickets) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		c.held.Add(1)
	}
	c.ClientSessionCache.Put(key, state)
}
