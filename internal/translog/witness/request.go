package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Bounds of what is exchanged. A checkpoint of ours has some 300 bytes, each
// cosignature 200 more.
const (
	maxProof   = 63 // lines (C2SP tlog-witness)
	maxRequest = 16 << 10
	maxAnswer  = 16 << 10
)

// The resources of a witness, and the type of the body that tells a size.
const (
	PathAdd  = "/add-checkpoint"
	PathHeld = "/held/" // and the log's origin
	typeSize = "text/x.tlog.size"
	typeText = "text/plain; charset=utf-8"
)

// request is the body of add-checkpoint.
type request struct {
	old        int64
	proof      tlog.TreeProof
	checkpoint []byte // not looked at
}

func (r request) marshal() []byte {
	b := append([]byte("old "), strconv.FormatInt(r.old, 10)...)
	b = append(b, '\n')
	for _, hash := range r.proof {
		b = base64.StdEncoding.AppendEncode(b, hash[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, r.checkpoint...)
}

var errRequest = errors.New("not an old size, proof lines, an empty line, and a checkpoint")

// parseRequest reads what marshal spells, and accepts no other spelling.
func parseRequest(body []byte) (request, error) {
	head, checkpoint, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok || len(body) > maxRequest {
		return request{}, errRequest
	}
	lines := strings.Split(string(head), "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	if !ok || len(lines)-1 > maxProof {
		return request{}, errRequest
	}
	r := request{checkpoint: checkpoint}
	if r.old, ok = parseSize(text); !ok {
		return request{}, errRequest
	}
	for _, line := range lines[1:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize || strings.Contains(line, "\r") {
			return request{}, errRequest
		}
		r.proof = append(r.proof, tlog.Hash(raw))
	}
	return r, nil
}

// parseSize reads a size in decimal, without a sign or leading zeros.
func parseSize(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == text
}

// origin returns the first line of a checkpoint.
func origin(checkpoint []byte) string {
	line, _, _ := bytes.Cut(checkpoint, []byte("\n"))
	return string(line)
}
