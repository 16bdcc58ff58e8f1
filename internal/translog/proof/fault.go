package proof

import "fmt"

// An EntryError names the first entry that is not the one the log commits to.
type EntryError struct {
	// Index is the entry's, counted from 0.
	Index int64
	// Last is greater than Index if only a whole range is known to be wrong.
	Last int64
	// Path is the file that holds the entry.
	Path   string
	Reason string
}

// Error says for example "entry 17 (tile/entries/000): its hash is not the one
// in tile/0/000".
func (e *EntryError) Error() string {
	if e.Last > e.Index {
		return fmt.Sprintf("entries %d to %d (from %s): %s", e.Index, e.Last, e.Path, e.Reason)
	}
	return fmt.Sprintf("entry %d (%s): %s", e.Index, e.Path, e.Reason)
}

// A FileError names a file, other than by an entry in it, that does not match
// the log, is missing, or does not belong there.
type FileError struct {
	// Path is relative to the log's directory, with slashes.
	Path   string
	Reason string
	// Err is the cause where reading failed, else nil.
	Err error
}

// Error says for example "tile/1/000: hash 3 is not the one that the entries give".
func (e *FileError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Path, e.Reason, e.Err)
	}
	return e.Path + ": " + e.Reason
}

// Unwrap returns Err.
func (e *FileError) Unwrap() error { return e.Err }
