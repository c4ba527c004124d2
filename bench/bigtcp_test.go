package main

import (
	"encoding/binary"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/netns"
)

func TestKernelSendsSuperFramesBeyond64KiBWithBigTCP(t *testing.T) {
	netns.Need(t)
	o := options{only: "T1", runs: 1, noisy: true, time: 100 * time.Millisecond, budget: time.Minute, stacks: "kernel,kernel-big,usernet"}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, ns := range b.lab.bigTCP {
		got := map[uint16]uint32{}
		if err := ns.Do(func() (err error) { got, err = limits(vethName); return err }); err != nil {
			t.Fatal(err)
		}
		for _, attr := range []uint16{unix.IFLA_GSO_MAX_SIZE, unix.IFLA_GRO_MAX_SIZE, unix.IFLA_GSO_IPV4_MAX_SIZE, unix.IFLA_GRO_IPV4_MAX_SIZE} {
			if got[attr] != bigGSO {
				t.Errorf("attribute %d of %s is %d", attr, ns, got[attr])
			}
		}
	}
	b.all()
	if len(b.rows) != 1 || b.failed > 0 {
		t.Fatalf("%d rows, %d failed", len(b.rows), b.failed)
	}
	for _, s := range b.stacks {
		if f := b.rows[0].figures[s]; f.rate() <= 0 || f.cpu() <= 0 {
			t.Errorf("%s: %+v", s, f)
		}
	}
	if b.ran <= 0 || b.otherCPU < 0 {
		t.Errorf("the load of other processes was not measured: %v, %v", b.ran, b.otherCPU)
	}
	t.Log(b.busy())
}

// limits returns the attributes of an interface that have four bytes.
func limits(ifc string) (map[uint16]uint32, error) {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			continue // the end of the list
		}
		own, list := false, map[uint16]uint32{}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME && string(a.Value) == ifc+"\x00" {
				own = true
			}
			if len(a.Value) == 4 {
				list[a.Attr.Type] = binary.NativeEndian.Uint32(a.Value)
			}
		}
		if own {
			return list, nil
		}
	}
	return nil, unix.ENODEV
}
