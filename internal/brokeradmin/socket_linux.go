package brokeradmin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is a directory that a socket stands in, held open: what is checked of
// it, and what is done in it, is of that very directory. The kernel takes 107
// bytes as the path of a socket; through the descriptor any directory will do.
type place struct {
	dir  *os.File
	name string
}

func openPlace(path string) (*place, error) {
	dir, err := os.OpenFile(filepath.Dir(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	p := &place{dir: dir, name: filepath.Base(path)}
	if n := len(p.path()); n >= maxSocketPath {
		_ = dir.Close()
		return nil, fmt.Errorf("%s: the name of a socket is at most %d bytes", p.name, maxSocketPath-1-(n-len(p.name)))
	}
	return p, nil
}

// maxSocketPath is sun_path of unix(7) in bytes, with the NUL at its end.
const maxSocketPath = 108

func (p *place) path() string { return fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), p.name) }

// check refuses a directory in which others could put a socket of their own.
func (p *place) check() error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.dir.Fd()), &stat); err != nil {
		return err
	}
	if int(stat.Uid) != os.Geteuid() || stat.Mode&0o022 != 0 {
		return fmt.Errorf("%s belongs to another user, or others may write to it", p.dir.Name())
	}
	return nil
}

// socket is a listening socket and its file.
type socket struct {
	*net.UnixListener
	place *place
}

// listen makes the socket. A file that nobody answers at is replaced. Whoever
// does the same at the same time waits for the lock of the directory in vain.
func listen(path string) (_ *socket, err error) {
	p, err := openPlace(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = p.dir.Close()
		}
	}()
	if err := p.check(); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(p.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("locking %s: %w", p.dir.Name(), err)
	}
	defer unix.Flock(int(p.dir.Fd()), unix.LOCK_UN)
	if err := p.clear(); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var mode error
		// The file gets the mode of the socket (unix(7)): there is no moment at
		// which others may connect.
		err := raw.Control(func(fd uintptr) { mode = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, mode)
	}}
	l, err := config.Listen(context.Background(), "unix", p.path())
	if err != nil {
		return nil, err
	}
	s := &socket{UnixListener: l.(*net.UnixListener), place: p}
	s.SetUnlinkOnClose(false)
	stat, err := p.stat()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if stat.Mode&0o777 != 0o600 {
		return nil, errors.Join(fmt.Errorf("%s has mode %04o", path, stat.Mode&0o777), l.Close())
	}
	return s, nil
}

func (p *place) stat() (stat unix.Stat_t, err error) {
	return stat, unix.Fstatat(int(p.dir.Fd()), p.name, &stat, unix.AT_SYMLINK_NOFOLLOW)
}

// clear removes a socket that nobody answers at.
func (p *place) clear() error {
	stat, err := p.stat()
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	case stat.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s is there, and is no socket", p.name)
	}
	conn, err := net.Dial("unix", p.path())
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("%s is answered by a running broker", p.name), conn.Close())
	case !errors.Is(err, unix.ECONNREFUSED):
		return err
	}
	return unix.Unlinkat(int(p.dir.Fd()), p.name, 0)
}

// Close removes the socket and stops listening. In the other order the file might
// be another broker's by then.
func (s *socket) Close() error {
	err := unix.Unlinkat(int(s.place.dir.Fd()), s.place.name, 0)
	return errors.Join(err, s.UnixListener.Close(), s.place.dir.Close())
}

// peer returns the user at the other end, as of when it connected.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	outer := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(outer, err); err != nil {
		return 0, err
	}
	return credentials.Uid, nil
}

// dial connects to the socket at path.
func dial(ctx context.Context, path string) (net.Conn, error) {
	p, err := openPlace(path)
	if err != nil {
		return nil, err
	}
	defer p.dir.Close()
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", p.path())
}
