package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// macNames are what package envelope calls a MAC that was computed, or the one
// that was received.
var macNames = []string{"enc", "sum", "mac", "MAC", "macOf"}

// No test of behaviour can tell a comparison that takes as long as the guess is
// good from one that does not. So the source says it: package envelope compares
// MACs through hmac.Equal or subtle.ConstantTimeCompare and in no other way.
func TestMACsAreComparedInConstantTime(t *testing.T) {
	files, err := filepath.Glob("../../envelope/*.go")
	if err != nil {
		t.Fatal(err)
	}
	right := 0
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		n, wrong := comparisons(t, path, nil)
		right += n
		for _, w := range wrong {
			t.Error(w)
		}
	}
	if right == 0 {
		t.Error("package envelope compares no MAC at all")
	}
}

// The check above is worth what it finds.
func TestOtherComparisonsAreFound(t *testing.T) {
	for body, found := range map[string]bool{
		`hmac.Equal(k.enc[:], macOf(raw))`:                      false,
		`subtle.ConstantTimeCompare(k.enc[:], macOf(raw)) == 1`: false,
		`m.MAC == nil`: false,
		`nil != m.MAC`: false,
		`string(tail[:len(macMember)]) == macMember`:              false,
		`bytes.Equal(k.enc[:], macOf(raw))`:                       true,
		`string(k.enc[:]) == string(macOf(raw))`:                  true,
		`k.enc[i] != tail[i]`:                                     true,
		`k.enc == [43]byte(macOf(raw))`:                           true,
		`slices.Equal(m.MAC, other)`:                              true,
		`bytes.Compare(mac, other) == 0`:                          true,
		`bytes.HasSuffix(raw, k.enc[:])`:                          true,
		`strings.EqualFold(string(m.MAC), other)`:                 true,
		`hmac.Equal(k.enc[:], x) && string(m.MAC) == string(enc)`: true,
	} {
		_, wrong := comparisons(t, "envelope.go", "package p\nfunc f() bool { return "+body+" }\n")
		if (len(wrong) > 0) != found {
			t.Errorf("%s: %v", body, wrong)
		}
	}
}

// comparisons returns how many comparisons of MACs a file makes in constant
// time, and where it makes others. src is as for parser.ParseFile.
func comparisons(t *testing.T, path string, src any) (right int, wrong []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name := called(n)
			if name == "hmac.Equal" || name == "subtle.ConstantTimeCompare" {
				right++
				return false
			}
			if compares(name) && slices.ContainsFunc(n.Args, ofMAC) {
				wrong = append(wrong, fmt.Sprintf("%s: %s compares a MAC", set.Position(n.Pos()), name))
			}
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && !isNil(n.X) && !isNil(n.Y) && (ofMAC(n.X) || ofMAC(n.Y)) {
				wrong = append(wrong, fmt.Sprintf("%s: %s compares a MAC", set.Position(n.Pos()), n.Op))
			}
		}
		return true
	})
	return right, wrong
}

// called returns the package and name of a called function, "" for any other.
func called(call *ast.CallExpr) string {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	pkg, ok := selector.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return pkg.Name + "." + selector.Sel.Name
}

// compares reports whether a function of the standard library looks into what
// it is given.
func compares(function string) bool {
	pkg, name, _ := strings.Cut(function, ".")
	return slices.Contains([]string{"bytes", "strings", "slices", "cmp", "reflect"}, pkg) && !slices.Contains([]string{"Clone", "Concat"}, name)
}

func isNil(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "nil"
}

// ofMAC reports whether an expression reads a MAC, other than for a comparison
// in constant time.
func ofMAC(e ast.Expr) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if name := called(n); name == "hmac.Equal" || name == "subtle.ConstantTimeCompare" {
				return false
			}
		case *ast.Ident:
			found = found || slices.Contains(macNames, n.Name)
		}
		return true
	})
	return found
}
