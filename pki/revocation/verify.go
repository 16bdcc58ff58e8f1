package revocation

import (
	"bytes"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// refusal is a reason with a text for the operator's log.
type refusal struct {
	reason envelope.Reason
	text   string
}

func (r refusal) Error() string { return "list refused: " + r.text }
func (r refusal) Unwrap() error { return r.reason }

func refuse(r envelope.Reason, text string) error { return refusal{reason: r, text: text} }

// verify reads a signed list and checks everything about it that the list in
// force, the clock and the site document have no part in.
//
// The signature is verified as of the message's own time, like any message's.
// So a list that was kept still holds when its signer's certificate has ended.
func (s *Set) verify(raw []byte) (*list, error) {
	m, err := envelope.Parse(raw, envelope.MaxMessage)
	if err != nil {
		return nil, refuse(envelope.ReasonOf(err), "it is no message")
	}
	topic, err := wire.ParseTopic(string(m.Topic))
	if err != nil || topic.Kind != wire.KindRevocations || topic.Site != s.config.Site {
		return nil, refuse(envelope.BadTopic, "it was not published as a list of this site")
	}
	if topic.Sender() != string(m.Sender()) { // the topic's role is that of issuers
		return nil, refuse(envelope.BadSender, "it is not of an issuer of this site")
	}
	id, leaf, err := m.VerifySignature(s.config.Verifier, time.UnixMilli(m.Time))
	if err != nil {
		return nil, refuse(envelope.ReasonOf(err), "its signature is not that of "+topic.Sender())
	}
	var payload wire.Revocations
	if err := wire.DecodeExact(m.Payload, &payload); err != nil {
		return nil, refuse(envelope.BadContent, err.Error())
	}
	l := &list{raw: bytes.Clone(raw), signer: id, leaf: leaf, number: payload.Number, time: m.Time, revoked: payload.Revoked,
		senders: make(map[string]wire.Revoked), serials: make(map[wire.ID]bool)}
	if err := l.read(payload.Issued, s.config.Site, s.config.Skew); err != nil {
		return nil, err
	}
	return l, nil
}

// read checks the list and makes it quick to ask.
func (l *list) read(issued int64, site string, skew time.Duration) error {
	switch {
	case issued < 1 || issued > l.time:
		return refuse(envelope.BadContent, "its time of issue is not between 1 and its time")
	// Who may sign lists for a while must not be able to outbid everybody
	// for ever: an issuer that begins anew numbers from the time.
	case l.number < 1 || l.number > uint64(l.time+skew.Milliseconds()):
		return refuse(envelope.BadContent, "its number is not between 1 and its time in ms")
	case len(l.revoked) > wire.MaxRevoked:
		return refuse(envelope.BadContent, fmt.Sprintf("it has %d entries, more than %d", len(l.revoked), wire.MaxRevoked))
	}
	for i, r := range l.revoked {
		identity := r.Serial.IsZero() && r.Until == 0 && r.Before > 0 && member(r.Sender, site)
		certificate := r.Sender == "" && r.Before == 0 && r.Generation == 0 && r.Until > 0 && !r.Serial.IsZero()
		// Nor must it revoke for ever what will be issued later: the true issuer,
		// and all who come back.
		if identity && r.Before > l.time+skew.Milliseconds() {
			return refuse(envelope.BadContent, fmt.Sprintf("entry %d revokes what is issued after the list", i))
		}
		if !identity && !certificate {
			return refuse(envelope.BadContent, fmt.Sprintf("entry %d is neither an identity of this site nor a certificate", i))
		}
		if _, known := l.senders[r.Sender]; known || l.serials[r.Serial] {
			return refuse(envelope.BadContent, fmt.Sprintf("entry %d stands twice", i))
		}
		if identity {
			l.senders[r.Sender] = r
		} else {
			l.serials[r.Serial] = true
		}
	}
	return nil
}

// member reports whether sender is site/role/name of a machine or a person of
// the site. A misspelt one would silently revoke nobody.
func member(sender, site string) bool {
	id, err := envelope.ParseKeyID([]byte(sender + "/1"))
	return err == nil && id.Site == site && pki.Role(id.Role).Class() != pki.ClassNone
}
