package audit

import (
	"errors"
	"io/fs"
	"os"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/translog/proof"
)

// checkWitnesses holds the newest checkpoint that enough witnesses have cosigned
// against the log, where the site document names any: they remember what the
// log had shown them.
func (a *audit) checkWitnesses(head proof.Checkpoint) {
	need := a.Document.Needed()
	if need == 0 || head.Tree.N == 0 {
		return
	}
	path := a.Files.Cosigned()
	raw, err := durable.ReadFile(path, maxHead)
	if errors.Is(err, fs.ErrNotExist) {
		// A log that has just begun may not have been shown to anybody.
		if a.latest-a.first > records.ImportOverdue.Milliseconds() {
			a.report.find(between, KindWitness, path, "is not there: no checkpoint shows that %d witnesses have seen this log", need)
		}
		return
	}
	if err != nil {
		a.report.find(between, KindWitness, path, "%v", err)
		return
	}
	v, err := proof.NewVerifier(a.report.Origin, a.Document.LogKey)
	if err != nil {
		a.report.find(between, KindTrust, path, "%v", err)
		return
	}
	cp, by, err := proof.Witnessed(os.DirFS(a.Files.Log()), raw, v, proof.Quorum{Witnesses: a.Document.WitnessKeys, Need: need}, head.Tree)
	switch {
	case err == nil:
		a.report.Witnessed = cp.Tree.N
		for _, c := range by {
			a.report.Witnesses = append(a.report.Witnesses, Witness{Name: c.Witness, Time: c.Time.UnixMilli()})
		}
	case errors.Is(err, proof.ErrInconsistent) && head.Tree.N < cp.Tree.N:
		// The recorder may have been at work: cosigned after the checkpoint that
		// was read.
		if now, err := a.readHead(a.logFile(proof.CheckpointFile)); err == nil && now.Tree.N >= cp.Tree.N {
			if _, _, err := proof.Witnessed(os.DirFS(a.Files.Log()), raw, v, proof.Quorum{Witnesses: a.Document.WitnessKeys, Need: need}, now.Tree); err == nil {
				a.report.Witnessed = head.Tree.N
				return
			}
		}
		a.report.find(between, KindRollback, a.Files.Log(), "it has %d entries, and witnesses have cosigned %d: %v", head.Tree.N, cp.Tree.N, err)
	case errors.Is(err, proof.ErrInconsistent):
		a.report.find(between, KindFork, a.Files.Log(), "it is not the log whose %d entries witnesses have cosigned: %v", cp.Tree.N, err)
	default:
		a.report.find(between, KindWitness, path, "%v", err)
	}
}
