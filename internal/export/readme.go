package export

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"levee/policies"
)

//go:embed templates/README.txt
var readmeText string

// readmePage is what the page says of one identity.
type readmePage struct {
	Identity, ClientID string
	Own, Other         string // the identity's first identifier; of people, another one
	NotAfter           string
	Key                string // the algorithm
	Brokers            []Broker
	Read, Publish      []string
	Limits             policies.Limits
	PublicBytes        int
	Try                []string
}

// readme returns the page that lies in the export. It names no path outside
// it: the directory may be carried elsewhere.
func (s *subject) readme() ([]byte, error) {
	t, err := template.New("").Parse(readmeText)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", FileReadme, err)
	}
	leaf := s.credential.Leaf()
	var b bytes.Buffer
	err = t.Execute(&b, readmePage{
		Identity: s.id.Sender(), Own: s.id.ClientID(), ClientID: s.clientID, Other: s.other,
		NotAfter: leaf.NotAfter.UTC().Format("2006-01-02 15:04 UTC"), Key: leaf.PublicKeyAlgorithm.String(), Brokers: s.brokers,
		Read: s.rights.Subscriptions(), Publish: publications(s.rights), Limits: s.rights.Limits(), PublicBytes: s.publicBytes(), Try: s.try(),
	})
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", FileReadme, err)
	}
	return b.Bytes(), nil
}
