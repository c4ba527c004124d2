package resolve

import (
	"net/netip"

	"github.com/usernet/usernet/internal/addrsel"
)

// order sorts addresses in the order in which to try them (RFC 6724 section 6).
func (r *Resolver) order(addrs []netip.Addr) {
	if r.cfg.Source != nil {
		addrsel.SortDestinations(addrs, r.cfg.Source, r.cfg.Deprecated)
	}
}
