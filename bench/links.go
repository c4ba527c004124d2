package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
)

// The targets of the ratios of medians: TUN to TAP, and frames with VLAN tags to frames without. A median moves by some
// percent between runs, so the ratio of a TUN that is as fast as a TAP may be less than 1. On the bridge,
// the kernel's own work for a tag lowers the target of VLAN, and where usernet sends full frames, what the kernel does for
// each frame of a TUN lowers that of TUN: see alone.
const (
	enoughTUN  = 0.97
	enoughVLAN = 0.97
)

// The stacks of the parts of -links.
var (
	linkStacks   = []stackName{usern, usernTUN, usernBridge, usernVLAN}
	memoryStacks = []stackName{usern, usernVLAN}
	tunnelStacks = []stackName{kernel, gvisor, usern}
)

// alone has the rows of bridgeAlone and deviceAlone. A row is nil if it was not measured.
type alone struct {
	bridge, device *row
}

// enoughVLAN returns the target of the ratio of tagged to untagged frames on a bridge.
func (a alone) enoughVLAN() float64 { return enoughVLAN * a.bridge.allowance(usernVLAN, usernBridge) }

// enoughTUN returns the target of the ratio of TUN to TAP for a row.
func (a alone) enoughTUN(r *row) float64 {
	if !r.Plain || r.Kind != recv {
		return enoughTUN
	}
	// A full frame of a TAP is copied into a part of a page, but that of a TUN into memory that is allocated for it
	// (tun_build_skb and tun_alloc_skb in the kernel's drivers/net/tun.c).
	return enoughTUN * a.device.allowance(usernTUN, usern)
}

// allowance returns the ratio of two stacks in a row of the kernel alone, but 1 if that is more than 1 or was not
// measured. The kernel's part of the work is outside of usernet.
func (r *row) allowance(s, other stackName) float64 {
	if r == nil {
		return 1
	}
	ratio, _ := r.between(s, other)
	if math.IsNaN(ratio) {
		return 1
	}
	return min(1, ratio)
}

// links measures usernet on several kinds of links alternately, and WireGuard with usernet and others inside. It prints
// the figures and writes them.
func (b *bench) links() error {
	if err := b.lab.makeBridge(); err != nil {
		return err
	}
	const head = "%-8s %-46s %-6s %8s %8s %8s  %8s %8s %8s  %s\n"
	fmt.Println("CPU ratios are in parentheses")
	slower := b.tags(head)
	fmt.Printf(head, "", "", "", "TAP", "TUN", "ratio", "bridge", "tagged", "ratio", "")
	b.alone.device = b.kernelAlone(&deviceAlone, head, usernTUN, usern)
	b.stacks = linkStacks
	for i := range workloads {
		w := &workloads[i]
		if w.Place != onTAP || !b.o.wanted(w.ID) {
			continue
		}
		r := b.measure(w)
		b.rows = append(b.rows, r)
		fmt.Printf(head, w.ID, w.Name, w.unit(), r.amount(usern), r.amount(usernTUN), r.over(usernTUN, usern),
			r.amount(usernBridge), r.amount(usernVLAN), r.over(usernVLAN, usernBridge), r.notes(linkStacks))
		slower = append(slower, r.linksBelow(b.alone)...)
	}
	fmt.Printf(head, "", "", "", "kernel", "netstack", "usernet", "ratio", "", "", "")
	b.stacks = tunnelStacks
	for i := range tunnels {
		w := &tunnels[i]
		if !b.o.wanted(w.ID) {
			continue
		}
		r := b.measure(w)
		b.rows = append(b.rows, r)
		fmt.Printf(head, w.ID, w.Name, w.unit(), r.amount(kernel), r.amount(gvisor), r.amount(usern), r.over(usern, gvisor), "", "", r.notes(tunnelStacks))
		slower = append(slower, r.linksBelow(b.alone)...)
	}
	fmt.Printf("%d targets missed %s; %s\n", len(slower), strings.Join(slower, ", "), time.Since(b.begin).Round(time.Second))
	if b.o.markdown != "" {
		if err := os.WriteFile(b.o.markdown, []byte(b.linksMarkdown()), 0o666); err != nil {
			return err
		}
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// kernelAlone measures a workload without usernet, and returns nil if it is not wanted.
func (b *bench) kernelAlone(w *workload, head string, s, other stackName) *row {
	if !b.o.wanted(w.ID) {
		return nil
	}
	b.stacks = []stackName{other, s}
	r := b.measure(w)
	fmt.Printf(head, r.ID, r.Name, r.unit(), r.amount(other), r.amount(s), r.over(s, other), "", "", "", r.notes(b.stacks))
	return r
}

// tags measures what a VLAN tag costs: the kernel alone on a bridge, then usernet in memory. It returns the targets
// that are missed.
func (b *bench) tags(head string) (slower []string) {
	fmt.Printf(head, "", "", "", "untagged", "tagged", "ratio", "", "", "", "")
	b.alone.bridge = b.kernelAlone(&bridgeAlone, head, usernVLAN, usernBridge)
	b.stacks = memoryStacks
	for i := range workloads {
		w := &workloads[i]
		if !slices.Contains(inMemory, w.ID) || !b.o.wanted(w.ID) {
			continue
		}
		r := b.measure(w)
		b.rows = append(b.rows, r)
		fmt.Printf(head, r.ID, r.Name, r.unit(), r.amount(usern), r.amount(usernVLAN), r.over(usernVLAN, usern), "", "", "", r.notes(memoryStacks))
		slower = append(slower, r.linksBelow(b.alone)...)
	}
	return slower
}

// between returns the median rate of a stack divided by that of another, and the same for the CPU time.
func (r *row) between(s, other stackName) (rate, cpu float64) {
	return r.figures[s].rate() / r.figures[other].rate(), r.figures[s].cpu() / r.figures[other].cpu()
}

// over formats the results of between.
func (r *row) over(s, other stackName) string {
	rate, cpu := r.between(s, other)
	if math.IsNaN(rate) {
		return "-"
	}
	return fmt.Sprintf("%s (%s)", digits(rate), digits(cpu))
}

// notes returns the notes of some stacks.
func (r *row) notes(stacks []stackName) string {
	var list []string
	for _, s := range stacks {
		if n := r.note(s); n != "" {
			list = append(list, fmt.Sprintf("%s: %s", s, n))
		}
	}
	return strings.Join(list, "; ")
}

// linksBelow returns the targets of -links that a row misses. A stack that failed misses its target.
func (r *row) linksBelow(a alone) (list []string) {
	miss := func(name string, ratio, target float64) {
		if math.IsNaN(ratio) || ratio < target {
			list = append(list, fmt.Sprintf("%s/%s %s", r.ID, name, digits(ratio)))
		}
	}
	if r.Place == onWG {
		rate, cpu := r.between(usern, gvisor)
		miss("rate", rate, r.OverGVisor)
		miss("CPU", 1/cpu, 1)
		return list
	}
	if r.Place == onPipe {
		rate, _ := r.between(usernVLAN, usern)
		miss("VLAN", rate, enoughVLAN)
		return list
	}
	rate, _ := r.between(usernTUN, usern)
	miss("TUN", rate, a.enoughTUN(r))
	if r.figures[usernVLAN] != nil {
		rate, _ = r.between(usernVLAN, usernBridge)
		miss("VLAN", rate, a.enoughVLAN())
	}
	return list
}

// linksMarkdown returns the tables of LINKS.md.
func (b *bench) linksMarkdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Links\n\nOne interleaved run of `go run . -links` on %s, %s: medians of %d runs of %v. The target of a\nratio is in"+
		" parentheses; a ratio in bold misses it. CPU is that of both sides, in seconds for a GB or for a million operations.\n%s\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), b.o.runs, b.o.time, b.busy())
	s.WriteString("Over TAP and TUN the other side is the kernel. On the bridge, both sides are usernet hosts, each on a TAP that is a\n" +
		"port of a bridge of the kernel; tagged frames have VLAN tags. The kernel takes each tag off a frame at one port and puts it\n" +
		"back at the other. What this costs the kernel is in the table \"A VLAN tag\": usernet's ratio has to reach " +
		digits(enoughVLAN) + " of the\nkernel's own. Where usernet sends plain frames, a TUN has to reach " + digits(enoughTUN) + " of the kernel's own ratio in the same way: for a\n" +
		"full frame from a TUN the kernel allocates memory, but it copies one from a TAP into a part of a page.\n\n" +
		"| | workload | unit | TAP | TUN | TUN / TAP | bridge | tagged | tagged / bridge | CPU TAP | CPU TUN | CPU bridge | CPU tagged |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	cpu := func(r *row, name stackName) string { return digits(r.figures[name].cpu()) }
	for _, r := range b.rows {
		if r.Place != onTAP {
			continue
		}
		tun, _ := r.between(usernTUN, usern)
		vlan, _ := r.between(usernVLAN, usernBridge)
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.ID, r.Name, r.unit(),
			r.amount(usern), r.amount(usernTUN), bold(tun, b.alone.enoughTUN(r)), r.amount(usernBridge), r.amount(usernVLAN), bold(vlan, b.alone.enoughVLAN()),
			cpu(r, usern), cpu(r, usernTUN), cpu(r, usernBridge), cpu(r, usernVLAN))
	}
	s.WriteString(b.tagsMarkdown())
	s.WriteString("\nInside a WireGuard tunnel between two namespaces, over veth. The protocol is that of golang.zx2c4.com/wireguard on both\n" +
		"sides. The other side is the kernel on a TUN device; the side that is measured is the kernel too, the netstack of that\n" +
		"module, or usernet.\n\n" +
		"| | workload | unit | kernel | netstack | usernet | usernet / netstack | CPU kernel | CPU netstack | CPU usernet |\n" +
		"|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range b.rows {
		if r.Place == onWG {
			rate, _ := r.between(usern, gvisor)
			fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.ID, r.Name, r.unit(),
				r.amount(kernel), r.amount(gvisor), r.amount(usern), bold(rate, r.OverGVisor),
				cpu(r, kernel), cpu(r, gvisor), cpu(r, usern))
		}
	}
	return s.String()
}

// tagsMarkdown returns the tables of what a VLAN tag costs, and of what a TUN costs the kernel alone.
func (b *bench) tagsMarkdown() string {
	var s strings.Builder
	s.WriteString("\nA VLAN tag. In memory, two usernet hosts are in one process, on a pipe. In the row of the kernel alone, a program without\n" +
		"usernet writes each frame to one TAP and reads it from another; both are ports of a bridge of the kernel.\n\n" +
		"| | workload | unit | untagged | tagged | tagged / untagged | CPU untagged | CPU tagged |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	line := func(r *row, where string, plain, other stackName, target float64) {
		rate, _ := r.between(other, plain)
		ratio := digits(rate)
		if target > 0 {
			ratio = bold(rate, target)
		}
		fmt.Fprintf(&s, "| %s | %s: %s | %s | %s | %s | %s | %s | %s |\n", r.ID, where, r.Name, r.unit(), r.amount(plain), r.amount(other),
			ratio, digits(r.figures[plain].cpu()), digits(r.figures[other].cpu()))
	}
	for _, r := range b.rows {
		if r.Place == onPipe {
			line(r, "in memory", usern, usernVLAN, enoughVLAN)
		}
	}
	if r := b.alone.bridge; r != nil {
		line(r, "kernel alone", usernBridge, usernVLAN, 0)
	}
	if r := b.alone.device; r != nil {
		s.WriteString("\nA TUN. A program without usernet writes frames to a TAP, or packets to a TUN, for a socket of the kernel.\n\n" +
			"| | workload | unit | TAP | TUN | TUN / TAP | CPU TAP | CPU TUN |\n" +
			"|---|---|---|---|---|---|---|---|\n")
		line(r, "kernel alone", usern, usernTUN, 0)
	}
	return s.String()
}
