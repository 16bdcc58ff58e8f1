package measure

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"levee/internal/wire"
)

// The flags of TCP's fourteenth byte (RFC 9293, section 3.1).
const (
	tcpFlagsAt = 13
	flagFIN    = 0x01
	flagSYN    = 0x02
	flagRST    = 0x04
	flagACK    = 0x10
	flagMask   = flagFIN | flagSYN | flagRST | flagACK
)

// beforeAll is the chain's priority: after IP fragments were put together
// (-400), before any rule of others (raw, -300) may drop the packet.
const beforeAll = -310

const chainName = "received"

// nftCounter counts by one rule of nftables, in a table of its own:
//
//	table inet levee_sensor_{site}_{name} {
//		chain received {
//			type filter hook prerouting priority -310; policy accept;
//			meta l4proto tcp tcp flags & (fin | syn | rst | ack) == syn counter
//		}
//	}
//
// The counter is the rule's and no named object: a named one survives the
// removal of the rule and then stands still, which would look like silence.
//
// IPv6 extension headers are skipped. A later fragment of a segment is counted
// if its bytes happen to look like a SYN, unless connection tracking puts
// fragments together first: no honest sender makes such fragments.
//
// Every call opens and closes its own netlink socket, so nothing is kept that
// could go stale.
type nftCounter struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

// openNFT needs CAP_NET_ADMIN over the network namespace. A table of the same
// name, which a killed predecessor left, is replaced in the same transaction.
func openNFT(table string) (*nftCounter, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	c := &nftCounter{
		conn:  conn,
		table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet},
	}
	accept := nftables.ChainPolicyAccept
	c.chain = &nftables.Chain{
		Name:     chainName,
		Table:    c.table,
		Type:     nftables.ChainTypeFilter,
		Hooknum:  nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(beforeAll),
		Policy:   &accept,
	}
	conn.AddTable(c.table) // so that there is one to delete
	conn.DelTable(c.table)
	conn.AddTable(c.table)
	conn.AddChain(c.chain)
	conn.AddRule(&nftables.Rule{Table: c.table, Chain: c.chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlagsAt, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagMask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{flagSYN}},
		&expr.Counter{},
	}})
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("adding table %s to nftables: %w", table, err)
	}
	return c, nil
}

// Read implements Counter.
func (c *nftCounter) Read() (uint64, error) {
	rules, err := c.conn.GetRules(c.table, c.chain)
	if err != nil {
		return 0, fmt.Errorf("reading table %s of nftables: %w", c.table.Name, err)
	}
	if len(rules) == 1 {
		for _, e := range rules[0].Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				return counter.Packets, nil
			}
		}
	}
	return 0, fmt.Errorf("reading table %s of nftables: our rule is not there", c.table.Name)
}

// Method implements Counter.
func (c *nftCounter) Method() string { return wire.SYNNFTables }

// Close implements Counter. That the table is gone already is no error.
func (c *nftCounter) Close() error {
	c.conn.DelTable(c.table)
	if err := c.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting table %s from nftables: %w", c.table.Name, err)
	}
	return nil
}
