package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// Source says where a passphrase comes from: a descriptor, a credential, or,
// if neither is set, a terminal.
type Source struct {
	// Descriptor is the number of an inherited file descriptor, as in
	// --passphrase-fd 3. It is read to its end, once.
	Descriptor string
	// Credential is the name of a credential of systemd (LoadCredential= or
	// LoadCredentialEncrypted= of the unit), as in --passphrase-credential ca:
	// the file of that name in $CREDENTIALS_DIRECTORY.
	Credential string

	// Terminal is asked if neither is set, usually os.Stdin; nil or something
	// else than a terminal is an error that names the other two.
	Terminal *os.File
	// Prompt says what the passphrase is for, as in "root key of bank.example".
	Prompt string
	// New asks a terminal twice. A descriptor or a credential is read once:
	// nobody mistypes there.
	New bool
}

// environment is where systemd says that a unit's credentials are.
const environment = "CREDENTIALS_DIRECTORY"

// errNowhere tells whoever has no terminal what else there is.
var errNowhere = errors.New("no terminal to ask on: give --passphrase-fd N or --passphrase-credential NAME")

// What is wrong with a descriptor.
var (
	errNotOpen  = errors.New("is not open")
	errTerminal = errors.New("is a terminal, which would show the passphrase")
	errKind     = errors.New("is neither a file nor a pipe")
)

// Ask returns the passphrase from its source. Whoever opens several keys under
// one passphrase asks once: a descriptor cannot be read twice.
func Ask(s Source) (Passphrase, error) {
	passphrase, err := s.ask()
	if err != nil {
		return Passphrase{}, fmt.Errorf("asking for a passphrase: %w", err)
	}
	return passphrase, nil
}

func (s Source) ask() (Passphrase, error) {
	switch {
	case s.Descriptor != "" && s.Credential != "":
		return Passphrase{}, errors.New("both a file descriptor and a credential were given")
	case s.Descriptor != "":
		return fromDescriptor(s.Descriptor)
	case s.Credential != "":
		return fromCredential(os.Getenv(environment), s.Credential)
	case s.Terminal == nil || !term.IsTerminal(int(s.Terminal.Fd())):
		return Passphrase{}, errNowhere
	default:
		return s.fromTerminal()
	}
}

// CheckDescriptor says why a passphrase cannot be read from the descriptor with
// that number, and nil if it can. It reads nothing. Whoever asks late checks
// first, before anything is opened: then the mistake is named as what it is.
func CheckDescriptor(number string) error {
	_, err := parseDescriptor(number)
	return err
}

// parseDescriptor returns the descriptor of that number. One that this program
// opened by itself is as good as not open: a number that nobody handed over
// would have a passphrase read from a journal, or from what the Go runtime
// keeps open.
func parseDescriptor(number string) (int, error) {
	n, err := strconv.ParseUint(number, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != number || n == 1 || n == 2 {
		return 0, fmt.Errorf("%q is no file descriptor to read from", number)
	}
	fd := int(n)
	if err := checkInherited(fd); err != nil {
		return 0, fmt.Errorf("file descriptor %d %w", fd, err)
	}
	return fd, nil
}

func fromDescriptor(number string) (Passphrase, error) {
	fd, err := parseDescriptor(number)
	if err != nil {
		return Passphrase{}, err
	}
	file := os.NewFile(uintptr(fd), "descriptor "+number)
	if file == nil {
		return Passphrase{}, fmt.Errorf("file descriptor %d %w", fd, errNotOpen)
	}
	info, err := file.Stat()
	if err != nil {
		return Passphrase{}, fmt.Errorf("file descriptor %d %w", fd, errNotOpen)
	}
	if kind := info.Mode().Type(); kind != 0 && kind != fs.ModeNamedPipe && kind != fs.ModeSocket {
		return Passphrase{}, fmt.Errorf("file descriptor %d %w", fd, errKind)
	}
	defer file.Close() // nothing that was not handed over
	return read(file)
}

// fromCredential reads a credential. systemd keeps credentials in memory that
// is never swapped, in a directory of the unit's user, as files of mode 0400,
// or 0440 where an access list grants the user what belongs to root: the group
// bits then show the list's mask. So the group may read, others may not.
func fromCredential(directory, name string) (Passphrase, error) {
	if directory == "" {
		return Passphrase{}, errors.New("$" + environment + " is not set: the unit loads no credential")
	}
	if !filepath.IsAbs(directory) {
		return Passphrase{}, errors.New("$" + environment + " is not an absolute path")
	}
	if !validCredential(name) {
		return Passphrase{}, fmt.Errorf("%q names no credential", name)
	}
	path := filepath.Join(directory, name)
	// Looked at before it is opened: opening a pipe would wait for a writer.
	before, err := os.Lstat(path)
	if err != nil {
		return Passphrase{}, err
	}
	if !before.Mode().IsRegular() {
		return Passphrase{}, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return Passphrase{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Passphrase{}, err
	}
	if !os.SameFile(before, info) {
		return Passphrase{}, fmt.Errorf("%s was replaced while it was opened", path)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o037 != 0 {
		return Passphrase{}, fmt.Errorf("%s has mode %04o: others could read or change the passphrase; it must be 0400", path, mode)
	}
	return read(file)
}

// validCredential allows what systemd allows in names, and fewer characters.
func validCredential(name string) bool {
	return len(name) > 0 && len(name) <= 64 && name[0] != '.' && !strings.ContainsFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	})
}

func read(file *os.File) (Passphrase, error) {
	// Two bytes more for the line break.
	line, err := io.ReadAll(io.LimitReader(file, maxPassphrase+3))
	if err != nil {
		return Passphrase{}, err
	}
	return NewPassphrase(line)
}

func (s Source) fromTerminal() (Passphrase, error) {
	first, err := s.prompt("Passphrase for the " + s.Prompt + ": ")
	if err != nil || !s.New {
		return first, err
	}
	second, err := s.prompt("The same again: ")
	if err != nil {
		return Passphrase{}, err
	}
	if !first.equal(second) {
		return Passphrase{}, errors.New("the two passphrases differ")
	}
	return first, nil
}

// prompt reads a line without showing it. The terminal is in raw mode
// meanwhile, so that an interrupt is a character that ends the asking, and
// cannot kill the process and leave a terminal that shows nothing.
func (s Source) prompt(question string) (Passphrase, error) {
	fd := int(s.Terminal.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return Passphrase{}, err
	}
	defer func() { _ = term.Restore(fd, before) }()
	line, err := term.NewTerminal(s.Terminal, "").ReadPassword(question)
	if errors.Is(err, io.EOF) {
		return Passphrase{}, errors.New("interrupted")
	}
	if err != nil {
		return Passphrase{}, err
	}
	return NewPassphrase([]byte(line))
}
