package config

import (
	"fmt"
	"net/netip"
)

// Loopback reads an address and port that no other machine can reach, for what
// asks nobody who they are. An address with a zone, or an IPv4 address within an
// IPv6 one, is refused: it has another spelling.
func Loopback(listen string) (netip.AddrPort, error) {
	address, err := netip.ParseAddrPort(listen)
	if err != nil || !address.Addr().IsLoopback() || address.Addr().Zone() != "" || address.Addr().Is4In6() {
		return netip.AddrPort{}, fmt.Errorf("%q is not a loopback address and a port, such as 127.0.0.1:8090", listen)
	}
	return address, nil
}
