package policies

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// MaxBytes bounds a policy file.
const MaxBytes = 256 << 10

// maxNesting bounds what stands within each other, maxEntries what stands in
// one mapping or sequence (a mapping's names and values count). The format needs
// far less of either; the YAML reader's work is quadratic in the second.
const (
	maxNesting = 8
	maxEntries = 1024
)

// The file as it is written. Nothing here has been judged yet.
type file struct {
	Version   integer                  `yaml:"version"`
	Skew      duration                 `yaml:"skew"`
	Topics    map[string]classFile     `yaml:"topics"`
	Roles     map[string]roleFile      `yaml:"roles"`
	Broker    brokerFile               `yaml:"broker"`
	Automatic map[string]automaticFile `yaml:"automatic"`
}

type classFile struct {
	Protected boolean `yaml:"protected"`
	Signed    boolean `yaml:"signed"`
	MaxBytes  integer `yaml:"max_bytes"`
}

type roleFile struct {
	Publish   []string   `yaml:"publish"`
	Subscribe []string   `yaml:"subscribe"`
	Keys      []string   `yaml:"keys"`
	Limits    limitsFile `yaml:"limits"`
}

type limitsFile struct {
	MessagesPerSecond integer `yaml:"messages_per_second"`
	Burst             integer `yaml:"burst"`
	BytesPerSecond    integer `yaml:"bytes_per_second"`
	MaxMessageBytes   integer `yaml:"max_message_bytes"`
	Subscriptions     integer `yaml:"subscriptions"`
}

type automaticFile struct {
	Causes     []string        `yaml:"causes"`
	TTL        duration        `yaml:"ttl"`
	MaxTTL     duration        `yaml:"max_ttl"`
	Renewals   integer         `yaml:"renewals"`
	CoolDown   duration        `yaml:"cool_down"`
	AllServers *allServersFile `yaml:"all_servers"` // absent: "*" is never automatic
	Parameters parametersFile  `yaml:"parameters"`
}

type allServersFile struct {
	MinSensors integer `yaml:"min_sensors"`
}

type parametersFile struct {
	RatePerSecond bounds[decimal] `yaml:"rate_per_second"`
	Burst         bounds[integer] `yaml:"burst"`
	Servers       bounds[integer] `yaml:"servers"`
}

type bounds[T integer | decimal] struct {
	Ask T `yaml:"ask"`
	Min T `yaml:"min"`
	Max T `yaml:"max"`
}

// The scalars of the file have one spelling each. YAML by itself reads "yes"
// as true, 010 as eight, and rounds 1.9 to the integer 1.
type (
	boolean  bool
	integer  int
	decimal  float64
	duration time.Duration // as Go spells one: "30s", "10m"
)

var (
	integers = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,9})$`)
	decimals = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?$`)
)

func (v *boolean) UnmarshalYAML(n *yaml.Node) error {
	if n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
		return fmt.Errorf("line %d: neither true nor false", n.Line)
	}
	*v = n.Value == "true"
	return nil
}

func (v *integer) UnmarshalYAML(n *yaml.Node) error {
	got, err := strconv.Atoi(n.Value)
	if n.Tag != "!!int" || !integers.MatchString(n.Value) || err != nil {
		return fmt.Errorf("line %d: not an integer in decimal digits", n.Line)
	}
	*v = integer(got)
	return nil
}

func (v *decimal) UnmarshalYAML(n *yaml.Node) error {
	got, err := strconv.ParseFloat(n.Value, 64)
	if n.Tag != "!!int" && n.Tag != "!!float" || !decimals.MatchString(n.Value) || err != nil {
		return fmt.Errorf("line %d: not a number in decimal digits", n.Line)
	}
	*v = decimal(got)
	return nil
}

func (v *duration) UnmarshalYAML(n *yaml.Node) error {
	got, err := time.ParseDuration(n.Value)
	if n.Tag != "!!str" || err != nil {
		return fmt.Errorf("line %d: not a duration such as 30s", n.Line)
	}
	*v = duration(got)
	return nil
}

// decode reads the file's shape and refuses what could be read in two ways.
func decode(b []byte) (*file, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("%d bytes are more than %d", len(b), MaxBytes)
	}
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	var document yaml.Node
	if err := d.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no document")
		}
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	if err := checkPlain(&document, 0); err != nil {
		return nil, err
	}
	d = yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true) // and duplicate names are errors by themselves
	var f file
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	return &f, nil
}

// checkPlain refuses the parts of YAML that hide what a file says: anchors,
// aliases and merges let one line change another, tags change a value's type,
// and an empty value is more often a slip than a wish.
func checkPlain(n *yaml.Node, depth int) error {
	switch {
	case depth > maxNesting:
		return fmt.Errorf("line %d: nested deeper than %d", n.Line, maxNesting)
	case len(n.Content) > maxEntries:
		return fmt.Errorf("line %d: more than %d entries", n.Line, maxEntries)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: anchors and aliases are not allowed", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags are not allowed", n.Line)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!merge":
		return fmt.Errorf("line %d: merges are not allowed", n.Line)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return fmt.Errorf("line %d: a value is empty", n.Line)
	}
	for _, child := range n.Content {
		if err := checkPlain(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}
