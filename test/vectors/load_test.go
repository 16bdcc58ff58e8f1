package vectors

import (
	"strings"
	"testing"
	"testing/fstest"
)

const smallest = `{"name":"a","says":"b","section":"2","receiver":{"site":"melb","skew":1},
	"messages":[{"now":1,"topic":"a","publisher":"b","max_bytes":1,"signed":false,"raw":"AA==","expect":"accepted"}]}`

func TestLoad(t *testing.T) {
	for _, test := range []struct {
		name, file, text string
		ok               bool
	}{
		{"the smallest", "a.json", smallest, true},
		{"a member more", "a.json", strings.Replace(smallest, `"skew":1`, `"skew":1,"capacity":1`, 1), false},
		{"a member less", "a.json", strings.Replace(smallest, `"expect":"accepted"`, `"expect":""`, 1), false},
		{"no messages", "a.json", smallest[:strings.Index(smallest, `"messages"`)] + `"messages":[]}`, false},
		{"another name", "b.json", smallest, false},
		{"a second case", "a.json", smallest + smallest, false},
		{"an empty file", "a.json", "", false},
		{"no file", "a.txt", smallest, false},
	} {
		cases, err := load(fstest.MapFS{test.file: {Data: []byte(test.text)}})
		if (err == nil) != test.ok || test.ok && len(cases) != 1 {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
