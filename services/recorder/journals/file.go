package journals

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"levee/internal/issuance"
	"levee/pki"
)

// maxFile bounds a deployer's journal in bytes, as the deployer does.
const maxFile = 1 << 30

// file is a deployer's journal in the bundle.
type file struct {
	source
	class pki.Class
	// judged is the file that the last import has judged, and judgement its
	// word: the same file needs no second one.
	judged    os.FileInfo
	judgement error
}

// importFile imports a deployer's journal, if it changed.
func (i *Importer) importFile(ctx context.Context, f *file) error {
	path := filepath.Join(i.config.Bundle, f.name)
	t, err := i.open(deployers(f.class))
	if err != nil {
		return defect{err}
	}
	opened, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if errors.Is(err, fs.ErrNotExist) {
		f.judged = nil
		if t.position == (issuance.Position{}) {
			return errAbsent
		}
		return defectf("%s is gone, and %d lines were imported from it: carry the bundle here again", path, t.position.Lines)
	}
	if err != nil {
		return fmt.Errorf("opening a journal: %w", err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return fmt.Errorf("opening a journal: %w", err)
	}
	if j := f.judged; j != nil && os.SameFile(j, info) && j.Size() == info.Size() && j.ModTime().Equal(info.ModTime()) {
		return f.judgement
	}
	f.judged = nil
	err = i.importFrom(ctx, f.class, t, opened, info)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	if wrong := (defect{}); err == nil || errors.As(err, &wrong) {
		f.judged, f.judgement = info, err
	}
	return err
}

// importFrom reads the file twice: before anything of it is imported, all of it
// is verified.
func (i *Importer) importFrom(ctx context.Context, class pki.Class, t *track, f io.ReadSeeker, info os.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return defectf("it is not a regular file")
	case info.Size() > maxFile:
		return defectf("it is larger than %d bytes", maxFile)
	}
	name, before := "", t.position
	for _, take := range []func([]issuance.Entry) error{
		func([]issuance.Entry) error { return ctx.Err() },
		func(entries []issuance.Entry) error { return i.take(ctx, t, entries) },
	} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		var err error
		if name, err = i.walk(io.LimitReader(f, info.Size()), class, before, take); err != nil {
			return err
		}
	}
	if class == pki.ClassMachine {
		i.name = name
	}
	return nil
}

// walk reads a deployer's journal. Of the lines that were imported it checks that
// they are those, by their hashes; all others it verifies, and hands to take in
// batches. It returns the name of the issuer to whom a certificate was issued
// last.
func (i *Importer) walk(r io.Reader, class pki.Class, imported issuance.Position, take func([]issuance.Entry) error) (issuer string, err error) {
	var (
		at    issuance.Position
		batch []issuance.Entry
		lines = bufio.NewReaderSize(r, issuance.MaxLine+1)
		check = issuance.NewChecker(i.config.Root, i.config.Verifier, i.authority(class), issuance.Deployer, imported)
	)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return "", defectf("it ends within line %d: it was not carried whole", at.Lines)
			}
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return "", defectf("line %d is longer than %d bytes", at.Lines, issuance.MaxLine)
		}
		if err != nil {
			return "", err
		}
		line = bytes.Clone(line[:len(line)-1])
		var e issuance.Entry
		if at.Lines < imported.Lines {
			e, err = i.again(line, class, at)
		} else if e, err = check.Next(line); err == nil {
			batch = append(batch, e)
		}
		if err != nil {
			return "", defect{err}
		}
		at = issuance.Position{Lines: at.Lines + 1, Last: hash(line)}
		if at.Lines == imported.Lines && at.Last != imported.Last {
			return "", defectf("its line %d is not the one that was imported: it is another journal", e.Index)
		}
		if name := i.issuerOf(e); name != "" {
			issuer = name
		}
		if len(batch) == maxBatch {
			if err := take(batch); err != nil {
				return "", err
			}
			batch = batch[:0]
		}
	}
	if at.Lines < imported.Lines {
		return "", defectf("it has %d lines, and %d were imported: an older copy was put in its place", at.Lines, imported.Lines)
	}
	if len(batch) > 0 {
		return issuer, take(batch)
	}
	return issuer, nil
}

// again reads a line that was verified when it was imported, if the hash of the
// last one says so.
func (i *Importer) again(line []byte, class pki.Class, at issuance.Position) (issuance.Entry, error) {
	e, err := issuance.ReadEntry(line)
	if err == nil && (e.Index != at.Lines || e.Previous != at.Last || e.Journal != issuance.Deployer || e.Authority.Class != class || e.Authority.Site != i.config.Site) {
		err = errors.New("it is of another journal, or does not follow the line before")
	}
	if err != nil {
		return e, fmt.Errorf("line %d: %w", at.Lines, err)
	}
	return e, nil
}

// issuerOf returns the name of the issuer to whom e issued a certificate, "" if
// it did not.
func (i *Importer) issuerOf(e issuance.Entry) string {
	if e.Certificate == nil || len(e.Certificate.URIs) != 1 {
		return ""
	}
	id, err := pki.ParseIdentity(e.Certificate.URIs[0].String(), i.config.Verifier.TrustDomain())
	if err != nil || id.Role != pki.RoleIssuer {
		return ""
	}
	return id.Name
}
