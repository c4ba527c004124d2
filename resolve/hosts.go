package resolve

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Hosts holds names and addresses as in hosts(5). The zero value is empty. Several goroutines may
// read it at the same time, but not during Add.
type Hosts struct {
	byName map[string]hostsEntry   // keys are absName in lower case
	byAddr map[netip.Addr][]string // values are absName in the case in which they were added
}

type hostsEntry struct {
	addrs     []netip.Addr
	canonical string // first name of the first line that has the name; absName in lower case
}

// ParseHosts parses the form of /etc/hosts: an address and one or more names per line, and comments
// after '#'. It ignores other lines, as the system's resolvers do. The error, if any, is the
// reader's.
func ParseHosts(r io.Reader) (Hosts, error) {
	var h Hosts
	err := eachLine(r, func(line string) {
		line, _, _ = strings.Cut(line, "#")
		f := fields(line)
		if len(f) < 2 {
			return
		}
		if addr, err := netip.ParseAddr(f[0]); err == nil {
			h.Add(addr, f[1:]...)
		}
	})
	return h, err
}

// Add adds names for addr, as a line of the file would. The first name is the canonical name of the
// others. The names may have any case, and a final dot.
func (h *Hosts) Add(addr netip.Addr, names ...string) {
	if !addr.IsValid() || len(names) == 0 {
		return
	}
	if h.byName == nil {
		h.byName = make(map[string]hostsEntry)
		h.byAddr = make(map[netip.Addr][]string)
	}
	canonical := lower(absName(names[0]))
	for _, name := range names {
		name = absName(name)
		h.byAddr[addr] = append(h.byAddr[addr], name)
		key := lower(name)
		e, ok := h.byName[key]
		if !ok {
			e.canonical = canonical
		}
		e.addrs = append(e.addrs, addr)
		h.byName[key] = e
	}
}

// Addrs returns the addresses of a name in the order in which they were added, and its canonical
// name. They are nil and "" if the name is not in h.
func (h *Hosts) Addrs(name string) (addrs []netip.Addr, canonical string) {
	e := h.byName[lower(absName(name))]
	return slices.Clone(e.addrs), e.canonical
}

// Names returns the names of an address in the order in which they were added. Names with dots have
// a final dot.
func (h *Hosts) Names(addr netip.Addr) []string {
	return slices.Clone(h.byAddr[addr])
}

func (h *Hosts) clone() Hosts {
	c := Hosts{byName: maps.Clone(h.byName), byAddr: maps.Clone(h.byAddr)}
	for name, e := range c.byName {
		e.addrs = slices.Clip(e.addrs)
		c.byName[name] = e
	}
	for addr, names := range c.byAddr {
		c.byAddr[addr] = slices.Clip(names)
	}
	return c
}

// fields splits a line at spaces, tabs and line ends.
func fields(line string) []string {
	return strings.FieldsFunc(line, func(c rune) bool {
		return c == ' ' || c == '\t' || c == '\r' || c == '\n'
	})
}

// eachLine calls f with each line of r, of any length, and returns the reader's error.
func eachLine(r io.Reader, f func(line string)) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		f(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil
		}
	}
}
