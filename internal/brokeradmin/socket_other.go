//go:build !linux

package brokeradmin

import (
	"context"
	"errors"
	"net"
)

// errPlatform says that a kernel that names the peer as Linux does is needed.
var errPlatform = errors.New("the administration of a broker works on Linux alone")

type socket struct{ *net.UnixListener }

func listen(string) (*socket, error)                 { return nil, errPlatform }
func dial(context.Context, string) (net.Conn, error) { return nil, errPlatform }
func peer(*net.UnixConn) (uid uint32, err error)     { return 0, errPlatform }
