// Package config decodes the configuration files of the daemons.
//
// It guarantees that a file says what its reader thinks it says: an unknown or
// duplicate key, an empty value, an anchor, a tag, a second document, or a file
// over its bound is an error, and every path in it is absolute or relative to
// the file itself. It does not know what the settings mean; each service
// validates its own.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"

	"levee/internal/durable"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 256 << 10

// Path is a file or directory. In a file it may be relative to that file's
// directory; Load makes it absolute, wherever it stands in structs and slices.
type Path string

// Load reads the YAML file at path into settings, a pointer to a struct.
func Load(path string, settings any) error {
	b, err := durable.ReadFile(path, maxFile)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	if err := decode(b, settings); err != nil {
		return fmt.Errorf("reading configuration %s: %s", path, inert(err.Error()))
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	resolve(reflect.ValueOf(settings).Elem(), filepath.Dir(absolute))
	return nil
}

// inert returns an error's text without what could steer a terminal: the decoder
// quotes the file as it is.
func inert(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r > '~' {
			return '\uFFFD'
		}
		return r
	}, s)
}

func decode(b []byte, settings any) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var document yaml.Node
	if err := d.Decode(&document); errors.Is(err, io.EOF) {
		return nil // no settings at all
	} else if err != nil {
		return err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document")
	}
	if err := checkPlain(&document); err != nil {
		return err
	}
	d = yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true) // and duplicate keys are errors by themselves
	return d.Decode(settings)
}

// checkPlain refuses the parts of YAML that hide what a file says: anchors and
// merges let one line change another, tags change a value's type, and an empty
// value is more often a slip than a wish.
func checkPlain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: anchors and aliases are not allowed", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags are not allowed", n.Line)
	case n.Tag == "!!merge":
		return fmt.Errorf("line %d: merges are not allowed", n.Line)
	case n.Tag == "!!null":
		return fmt.Errorf("line %d: a value is empty", n.Line)
	}
	for _, child := range n.Content {
		if err := checkPlain(child); err != nil {
			return err
		}
	}
	return nil
}

// resolve makes every Path below v absolute.
func resolve(v reflect.Value, dir string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				resolve(v.Field(i), dir)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			resolve(v.Index(i), dir)
		}
	case reflect.String:
		if p := v.String(); v.Type() == reflect.TypeFor[Path]() && p != "" && !filepath.IsAbs(p) {
			v.SetString(filepath.Join(dir, p))
		}
	}
}

// Encode returns settings as the file that Load reads.
func Encode(settings any) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(settings); err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	return b.Bytes(), nil
}
