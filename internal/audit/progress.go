package audit

import (
	"io/fs"
	"os"
	"path/filepath"

	"levee/internal/translog/proof"
)

// Progress says how far reading has come, in bytes of segments and in entries
// of the log. The totals are those of the start: both may grow meanwhile.
type Progress struct {
	Bytes, AllBytes     int64
	Entries, AllEntries int64
}

// Share returns how much was read, 0 to 1.
func (p Progress) Share() float64 {
	if p.AllBytes == 0 {
		if p.AllEntries == 0 {
			return 0
		}
		return min(1, float64(p.Entries)/float64(p.AllEntries))
	}
	return min(1, float64(p.Bytes)/float64(p.AllBytes))
}

// progress counts for Config.Progress.
type progress struct {
	Progress
	tell func(Progress)
	file int32 // whose last batch was seen
	at   int64 // where that ended
}

func (a *audit) newProgress() *progress {
	p := &progress{tell: a.Config.Progress, file: noFile}
	if p.tell == nil {
		return p
	}
	if files, _, err := segmentFiles(a.Files.Segments()); err == nil {
		for _, f := range files {
			if info, err := os.Stat(f.Path); err == nil {
				p.AllBytes += info.Size()
			}
		}
	}
	if raw, err := fs.ReadFile(os.DirFS(a.Files.Log()), filepath.FromSlash(proof.TreeStateFile)); err == nil {
		if tree, err := proof.ParseTreeState(raw); err == nil {
			p.AllEntries = tree.N
		}
	}
	return p
}

func (p *progress) entries(n int) {
	p.Entries += int64(n)
	p.show()
}

func (p *progress) records(b *batch) {
	if b.file != p.file {
		p.file, p.at = b.file, 0
	}
	p.Bytes += b.size - p.at
	p.at = b.size
	p.show()
}

func (p *progress) show() {
	if p.tell != nil {
		p.tell(p.Progress)
	}
}
