package envelope

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strconv"
	"sync"

	"levee/internal/wire"
	"levee/pki"
)

// macPrefix separates our MACs from every other use of HMAC-SHA256.
var macPrefix = []byte("levee/envelope/v1\x00")

// KeySize is the length of every symmetric key in bytes.
const KeySize = 32

// Key is a sender's key. Whoever holds it can seal as that sender. It is safe
// for concurrent use and prints as "redacted".
type Key struct {
	mu  sync.Mutex
	mac hash.Hash
	sum [sha256.Size]byte
	enc [macLength]byte
}

// NewKey returns the key over secret, which must be KeySize bytes long.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) != KeySize {
		return nil, errors.New("making an envelope key: it is not 32 bytes long")
	}
	return &Key{mac: hmac.New(sha256.New, secret)}, nil
}

// Format hides the key, whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, "redacted") }

// LogValue hides the key.
func (k *Key) LogValue() slog.Value { return slog.StringValue("redacted") }

// encode leaves the encoded MAC over b in k.enc. k.mu must be held.
func (k *Key) encode(b []byte) {
	k.mac.Reset()
	k.mac.Write(macPrefix)
	k.mac.Write(b)
	k.mac.Sum(k.sum[:0])
	encodeMAC(&k.enc, &k.sum)
}

// verify reports whether raw ends in the MAC of everything before it. It
// compares the 43 encoded bytes in constant time: the received ones are never
// decoded, so that they have one spelling only.
func (k *Key) verify(raw []byte) bool {
	if !sealed(raw) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.encode(raw[:len(raw)-macTail])
	return hmac.Equal(k.enc[:], macOf(raw))
}

// Header is what a sender says of a message beside its payload.
type Header struct {
	KeyID KeyID
	Time  int64 // ms since the epoch
	Nonce Nonce
	Topic string
}

func (h Header) check() error {
	switch {
	case !pki.ValidSite(h.KeyID.Site) || !pki.ValidName(h.KeyID.Role) || !pki.ValidName(h.KeyID.Name) || h.KeyID.Generation == 0:
		return fmt.Errorf("sealing: key identifier %q is outside the grammar", h.KeyID)
	case h.Time < 1 || h.Time > MaxTime:
		return fmt.Errorf("sealing: time %d is outside the grammar", h.Time)
	case h.Nonce.Boot == 0 || h.Nonce.Boot >= 1<<(4*bootDigit) || h.Nonce.Seq == 0:
		return fmt.Errorf("sealing: nonce %d-%d is outside the grammar", h.Nonce.Boot, h.Nonce.Seq)
	case !wire.ValidTopic(h.Topic):
		return fmt.Errorf("sealing: topic %q is outside the grammar", h.Topic)
	}
	return nil
}

// Append seals payload under h and appends the message to dst. payload must be
// a strict JSON object; it goes in byte for byte. With a signer the message is
// signed as well. Size is not bounded here: the caller knows the class.
func Append(dst []byte, h Header, payload []byte, key *Key, signer *Signer) ([]byte, error) {
	start := len(dst)
	dst, err := appendBody(dst, h, payload, signer)
	if err != nil {
		return dst[:start], err
	}
	key.mu.Lock()
	defer key.mu.Unlock()
	key.encode(dst[start:])
	dst = append(dst, macMember...)
	dst = append(dst, key.enc[:]...)
	return append(dst, `"}`...), nil
}

// AppendStatement appends a signed statement, which carries no MAC.
func AppendStatement(dst []byte, h Header, payload []byte, signer *Signer) ([]byte, error) {
	start := len(dst)
	if signer == nil {
		return dst, errors.New("sealing: a statement needs a signer")
	}
	if h.Nonce != StatementNonce(h.Time) {
		return dst, fmt.Errorf("sealing: nonce %s-%d is not a statement's", FormatBoot(h.Nonce.Boot), h.Nonce.Seq)
	}
	if !statementGeneration(h.Topic, h.KeyID.Generation) {
		return dst, fmt.Errorf("sealing: generation %d is not a statement's", h.KeyID.Generation)
	}
	dst, err := appendBody(dst, h, payload, signer)
	if err != nil {
		return dst[:start], err
	}
	return append(dst, '}'), nil
}

func appendBody(dst []byte, h Header, payload []byte, signer *Signer) ([]byte, error) {
	if err := h.check(); err != nil {
		return dst, err
	}
	if err := wire.CheckObject(payload); err != nil {
		return dst, fmt.Errorf("sealing: %w", err)
	}
	start := len(dst)
	dst = append(dst, beginning...)
	dst = append(dst, h.KeyID.Site...)
	dst = append(dst, '/')
	dst = append(dst, h.KeyID.Role...)
	dst = append(dst, '/')
	dst = append(dst, h.KeyID.Name...)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, uint64(h.KeyID.Generation), 10)
	dst = append(dst, `","ts":`...)
	dst = strconv.AppendInt(dst, h.Time, 10)
	dst = append(dst, `,"nonce":"`...)
	dst = appendBoot(dst, h.Nonce.Boot)
	dst = append(dst, '-')
	dst = strconv.AppendUint(dst, h.Nonce.Seq, 10)
	dst = append(dst, `","topic":"`...)
	dst = append(dst, h.Topic...)
	dst = append(dst, '"')
	if signer != nil {
		dst = append(dst, `,"chain":"`...)
		dst = append(dst, signer.chain...)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"payload":`...)
	dst = append(dst, payload...)
	if signer == nil {
		return dst, nil
	}
	sig, err := signer.sign(dst[start:])
	if err != nil {
		return dst, err
	}
	dst = append(dst, sigMember...)
	dst = base64.RawURLEncoding.AppendEncode(dst, sig)
	return append(dst, '"'), nil
}

// Open checks a message in the order of docs/envelope.md: size, kid, key, MAC,
// and only then the rest of the grammar. find returns the key for a kid, nil
// if the receiver holds none; it must not keep the slice. max bounds the size
// in bytes. Every error is a Reason.
func Open(raw []byte, max int, find func(kid []byte) *Key) (m Message, err error) {
	if len(raw) > max {
		return Message{}, BadSize
	}
	kid, err := ScanKeyID(raw)
	if err != nil {
		return Message{}, err
	}
	key := find(kid)
	if key == nil {
		return Message{}, UnknownKey
	}
	if !key.verify(raw) {
		return Message{}, BadMAC
	}
	if reason := m.parse(raw, kid, true); reason != Accepted {
		return Message{}, reason
	}
	return m, nil
}
