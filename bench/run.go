package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A sample is the result of one run of a workload on a stack.
type sample struct {
	// Rate is in bits per second for a bulk workload, and otherwise in operations per second.
	Rate float64
	// CPU is the CPU time of both sides, in seconds per GB or per million operations.
	CPU float64
	// Other is how much of the machine others used during the run, 0 to 1: see runner.others.
	Other float64
	// Errors counts failed operations, and Lost counts lost datagrams.
	Errors, Lost int
	Note         string
}

// A runner runs workloads.
type runner struct {
	lab  *lab
	self string // the path of this program
	// other is the program that runs the tasks of the stack named "before". The program is built from
	// the commit that the flag -compare names.
	other string
	time  time.Duration
	pin   pin // if not empty, replaces the placement of each workload
	// profiles is the directory for usernet's profiles; if empty, no profiles are written.
	profiles string
	ports    int // counts the servers so far; selects the port of the next one: see task
	// The limit of a run is 3*time + patience; patience is 40 s if 0. lneto has its own limit.
	patience time.Duration
	// ran is the time of all runs that did not fail, including disturbed ones that were then repeated. otherCPU
	// is the CPU time that others used in that time: see others.
	ran, otherCPU time.Duration
	// ksoftirqds are the PIDs of the ksoftirqd threads.
	ksoftirqds []string
}

// run runs a workload once on a stack.
func (r *runner) run(w *workload, s stackName, c setup) (sample, error) {
	// The limit includes the time to start and to connect.
	limit := 3*r.time + cmp.Or(r.patience, 40*time.Second)
	if s == lnetoS {
		limit = lnetoLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	r.ports++
	start := r.readCPUTimes()
	var rep report
	var used time.Duration
	var err error
	switch {
	case w.Place == onPipe || w.Place == onPorts:
		rep, used, err = r.inOne(ctx, w, s, c)
	case w.Proxy != "":
		rep, used, err = r.inThree(ctx, w, s, c)
	default:
		rep, used, err = r.inTwo(ctx, w, s, c)
	}
	if ctx.Err() != nil {
		return sample{}, fmt.Errorf("%s on %s: stopped after %v", w.ID, s, limit)
	}
	if err != nil {
		return sample{}, fmt.Errorf("%s on %s: %w", w.ID, s, err)
	}
	if rep.Count <= 0 || rep.Total <= 0 {
		return sample{}, fmt.Errorf("%s on %s: nothing came through: %s", w.ID, s, rep.Note)
	}
	out := sample{
		Rate: rep.Count / rep.Time.Seconds(), Other: r.others(start, used),
		Errors: rep.Errors, Lost: rep.Lost, Note: rep.Note,
	}
	if w.Kind.bulk() {
		out.Rate *= 8
		out.CPU = rep.CPU.Seconds() / (rep.Total / 1e9)
	} else {
		out.CPU = rep.CPU.Seconds() / (rep.Total / 1e6)
	}
	return out, nil
}

func (r *runner) task(w *workload, s stackName, c setup) task {
	return task{
		Stack: s, Kind: w.Kind, N: w.N, Size: w.Size, Close: w.Close, Place: w.Place,
		Latency: w.Latency, Loss: w.Loss, Setup: c,
		Proxy: w.Proxy, Over: w.Over, Batch: w.Batch, Cached: w.Cached,
		V6:   s == usern6,
		Port: firstPort + r.ports%(lastPort-firstPort+1), Time: r.time,
	}
}

// profile returns the name of the file for a profile of usernet's process.
func (r *runner) profile(w *workload, s stackName) string {
	switch {
	case r.profiles == "":
		return ""
	case s == usern:
		return filepath.Join(r.profiles, w.ID+".pprof")
	case s == usernTUN || s.bridged():
		return filepath.Join(r.profiles, w.ID+"-"+string(s)+".pprof")
	}
	return ""
}

// cores returns the core of each side of a workload, or -1 if the scheduler decides.
func (r *runner) cores(w *workload) (client, server int) {
	p := w.Pin
	if r.pin != "" {
		p = r.pin
	}
	switch p {
	case same:
		return 0, 0
	case cross:
		return 0, 1
	}
	return -1, -1
}

// inOne runs a workload whose two sides are in one process. It returns the report of the process and
// all its CPU time.
func (r *runner) inOne(ctx context.Context, w *workload, s stackName, c setup) (report, time.Duration, error) {
	t := r.task(w, s, c)
	_, far, _ := addrs(t.V6)
	t.Role, t.Addr, t.Profile = "both", far, r.profile(w, s)
	ns := r.lab.tap
	switch {
	case w.Kind == frames:
		t.Role, ns = "frames", r.lab.bridge
	case w.Kind == packets:
		t.Role = "packets"
	case s == kernel && w.Latency > 0:
		t.Spaces = [2]string{string(r.lab.lossy[0].Namespace), string(r.lab.lossy[1].Namespace)}
	case s == kernel:
		t.Addr = loopback
	}
	core, _ := r.cores(w)
	return r.runProcess(ctx, ns, &t, core)
}

// sides returns the namespaces of the kernel's side and of the stack's side.
func (r *runner) sides(w *workload, s stackName) (near, far namespace) {
	switch {
	case s.bridged():
		return r.lab.bridge, r.lab.bridge
	case s == kernelBig:
		return r.lab.bigTCP[0], r.lab.bigTCP[1]
	case s == kernel && w.Plain:
		return r.lab.noGSO[0], r.lab.noGSO[1]
	case s == kernel || w.Place == onWG:
		return r.lab.veth[0], r.lab.veth[1]
	}
	return r.lab.tap, r.lab.tap
}

// inThree runs a workload with a proxy. The proxy is the process of the measured stack; the client and the server
// use the kernel. One of the proxy's two connections is over the kernel's loopback, with IPv4 even if the measured stack
// uses IPv6. The CPU of the report is the sum of all three.
func (r *runner) inThree(ctx context.Context, w *workload, s stackName, c setup) (report, time.Duration, error) {
	near, far := r.sides(w, s)
	client, prox := r.task(w, kernel, setup{CC: c.CC, Chunk: c.Chunk}), r.task(w, s, c)
	r.ports++ // the server and the proxy have different ports
	server := r.task(w, kernel, setup{CC: c.CC, Chunk: c.Chunk})
	client.Role, prox.Role, server.Role = "client", "proxy", "server"
	client.Proxy, server.Proxy = "", ""
	prox.Profile = r.profile(w, s)
	prox.Client = w.Client
	nearHost, farHost, _ := addrs(prox.V6)
	clientNS, serverNS, serverHost := near, far, loopback
	client.Addr, client.V6 = farHost, prox.V6
	if w.Client {
		clientNS, serverNS, serverHost = far, near, nearHost
		client.Addr, client.V6, server.V6 = loopback, false, prox.V6
	}
	prox.Addr = net.JoinHostPort(serverHost, strconv.Itoa(server.Port))

	var servers []*process
	var cpuBefore []time.Duration // of each server
	for _, one := range []struct {
		ns namespace
		t  *task
	}{{serverNS, &server}, {far, &prox}} {
		srv, err := r.startProcess(ctx, one.ns, one.t, -1)
		if err != nil {
			return report{}, 0, err
		}
		defer srv.kill()
		servers = append(servers, srv)
	}
	for _, srv := range servers {
		cpu, err := srv.cpu()
		if err != nil {
			return report{}, 0, err
		}
		cpuBefore = append(cpuBefore, cpu)
	}
	rep, used, err := r.runProcess(ctx, clientNS, &client, -1)
	if err != nil {
		return report{}, 0, err
	}
	for i, srv := range servers {
		cpu, err := srv.cpu()
		if err != nil {
			return report{}, 0, err
		}
		rep.CPU += cpu - cpuBefore[i]
	}
	// End the proxy before the server, so that the proxy never runs without its server.
	for i := range servers {
		all, err := servers[len(servers)-1-i].end()
		if err != nil {
			return report{}, 0, err
		}
		used += all
	}
	return rep, used, nil
}

// inTwo runs a workload whose sides are in two processes. The CPU of the report is the sum of both
// sides during the workload. The second result is all the CPU time of both processes.
func (r *runner) inTwo(ctx context.Context, w *workload, s stackName, c setup) (report, time.Duration, error) {
	near, far := r.sides(w, s)
	nearStack, nearSetup := kernel, setup{CC: c.CC, Chunk: c.Chunk}
	if s.bridged() {
		nearStack, nearSetup = s, c
	}
	nearTask, farTask := r.task(w, nearStack, nearSetup), r.task(w, s, c)
	nearTask.Near, nearTask.V6 = true, farTask.V6
	farTask.Profile = r.profile(w, s)
	nearHost, farHost, _ := addrs(farTask.V6)
	if w.Place == onWG {
		nearHost, farHost = wgAddrs[0], wgAddrs[1]
	}
	client, server, clientNS, serverNS, host := &nearTask, &farTask, near, far, farHost
	if w.Client {
		client, server, clientNS, serverNS, host = &farTask, &nearTask, far, near, nearHost
	}
	client.Role, server.Role, client.Addr = "client", "server", host
	clientCore, serverCore := r.cores(w)

	srv, err := r.startProcess(ctx, serverNS, server, serverCore)
	if err != nil {
		return report{}, 0, err
	}
	defer srv.kill()
	cpuBefore, err := srv.cpu()
	if err != nil {
		return report{}, 0, err
	}
	var rep report
	var used time.Duration
	if w.Kind == wrkHTTP {
		rep, used, err = r.wrk(ctx, clientNS, w, client, clientCore)
	} else {
		rep, used, err = r.runProcess(ctx, clientNS, client, clientCore)
	}
	if err != nil {
		return report{}, 0, err
	}
	cpuAfter, err := srv.cpu()
	if err != nil {
		return report{}, 0, err
	}
	rep.CPU += cpuAfter - cpuBefore
	all, err := srv.end()
	return rep, used + all, err
}

// A process is a server process that the harness has started.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	errs bytes.Buffer
}

// command returns the command of a process for a task.
func (r *runner) command(ctx context.Context, t *task) (*exec.Cmd, error) {
	program, own := r.self, *t
	if t.Stack == before {
		program, own.Stack = r.other, usern
	}
	arg, err := json.Marshal(&own)
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, program, "-task", string(arg)), nil
}

// startProcess starts a process for a task whose role is server or proxy, and returns when it is ready.
func (r *runner) startProcess(ctx context.Context, ns namespace, t *task, core int) (*process, error) {
	cmd, err := r.command(ctx, t)
	if err != nil {
		return nil, err
	}
	return launch(cmd, func() error { return ns.start(cmd, core) })
}

// launch starts a command with start, and returns when it has printed that it is ready.
func launch(cmd *exec.Cmd, start func() error) (p *process, err error) {
	p = &process{cmd: cmd}
	cmd.Stderr = &p.errs
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if err := start(); err != nil {
		return nil, err
	}
	if !p.out.Scan() || p.out.Text() != "ready" {
		return nil, p.fail(errors.New("the server did not start"))
	}
	return p, nil
}

// cpu returns the CPU time that a server has used so far.
func (p *process) cpu() (time.Duration, error) {
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return 0, p.fail(fmt.Errorf("the server: %w", err))
	}
	if !p.out.Scan() {
		return 0, p.fail(errors.New("the server is gone"))
	}
	n, err := strconv.ParseInt(p.out.Text(), 10, 64)
	return time.Duration(n), err
}

// end ends a server and returns all the CPU time that it has used.
func (p *process) end() (time.Duration, error) {
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return 0, p.fail(fmt.Errorf("the server: %w", err))
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
}

// fail ends a server, and returns err with what the server has printed to standard error. Before the end, a goroutine
// of os/exec may still write to p.errs.
func (p *process) fail(err error) error {
	p.kill()
	return fmt.Errorf("%w: %s", err, shorten(p.errs.String()))
}

// kill kills a server that has not ended, and waits for its end.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// runProcess runs a process for a task to its end, and returns its report and all its CPU time.
func (r *runner) runProcess(ctx context.Context, ns namespace, t *task, core int) (rep report, used time.Duration, err error) {
	cmd, err := r.command(ctx, t)
	if err != nil {
		return rep, 0, err
	}
	out, used, err := runToEnd(ns, cmd, core)
	if err != nil {
		return rep, 0, err
	}
	err = json.Unmarshal([]byte(out), &rep)
	return rep, used, err
}

// runToEnd runs a command to its end and returns its output and its CPU time.
func runToEnd(ns namespace, cmd *exec.Cmd, core int) (string, time.Duration, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := ns.start(cmd, core); err != nil {
		return "", 0, err
	}
	if err := cmd.Wait(); err != nil {
		return "", 0, fmt.Errorf("%w: %s", err, shorten(errs.String()))
	}
	return out.String(), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// shorten returns s, for an error message, without its middle if s is long. A Go program that crashes prints the
// reason first, and other failing commands print it last.
func shorten(s string) string {
	const most = 2000
	if s = strings.TrimSpace(s); len(s) > most {
		return s[:most/2] + " ... " + s[len(s)-most/2:]
	}
	return s
}

// wrk runs the load generator wrk as the client. Its time is in whole seconds, so a run takes at least
// one second.
func (r *runner) wrk(ctx context.Context, ns namespace, w *workload, t *task, core int) (report, time.Duration, error) {
	secs := max(1, int(r.time.Seconds()+0.5))
	args := []string{
		"-t", strconv.Itoa(min(2, w.N)), "-c", strconv.Itoa(w.N), "-d", strconv.Itoa(secs) + "s", "--timeout", "10s",
	}
	if w.Close {
		args = append(args, "-H", "Connection: close")
	}
	args = append(args, fmt.Sprintf("http://%s/", net.JoinHostPort(t.Addr, strconv.Itoa(t.Port))))
	out, used, err := runToEnd(ns, exec.CommandContext(ctx, "wrk", args...), core)
	if err != nil {
		return report{}, 0, err
	}
	rep, err := parseWrk(out)
	rep.CPU = used
	return rep, used, err
}

// parseWrk reads what wrk prints:
//
//	104857 requests in 1.00s, 13.4MB read
//	Socket errors: connect 0, read 0, write 0, timeout 0
//	Requests/sec: 104857.00
func parseWrk(out string) (rep report, err error) {
	var rate float64
	for line := range strings.Lines(out) {
		f := strings.Fields(strings.ReplaceAll(line, ",", ""))
		switch {
		case len(f) >= 4 && f[1] == "requests" && f[2] == "in":
			rep.Total, err = strconv.ParseFloat(f[0], 64)
		case len(f) == 2 && f[0] == "Requests/sec:":
			rate, err = strconv.ParseFloat(f[1], 64)
		case strings.HasPrefix(strings.TrimSpace(line), "Socket errors"),
			strings.HasPrefix(strings.TrimSpace(line), "Non-2xx"):
			for _, s := range f {
				if n, err := strconv.Atoi(s); err == nil {
					rep.Errors += n
				}
			}
			if rep.Note == "" {
				rep.Note = strings.TrimSpace(line)
			}
		}
		if err != nil {
			return rep, err
		}
	}
	if rate == 0 {
		return rep, errors.New("wrk: " + shorten(out))
	}
	rep.Count, rep.Time = rep.Total, time.Duration(rep.Total/rate*1e9)
	return rep, nil
}

// cpuTimes are the CPU time counters at the beginning of a run.
type cpuTimes struct {
	when      time.Time
	machine   time.Duration // see machineBusy
	ksoftirqd time.Duration
	own       time.Duration // of this process
}

func (r *runner) readCPUTimes() cpuTimes {
	return cpuTimes{time.Now(), machineBusy(), ksoftirqdCPU(r.ksoftirqds), ownCPU()}
}

// others returns how much of the machine's CPU time since start went to others, 0 to 1: to all processes except those
// of the run, the ksoftirqd threads and this process, and to other virtual machines. used is the CPU time of the
// processes of the run. others also adds the times to r.ran and r.otherCPU.
func (r *runner) others(start cpuTimes, used time.Duration) float64 {
	took := time.Since(start.when)
	other := machineBusy() - start.machine - used - (ksoftirqdCPU(r.ksoftirqds) - start.ksoftirqd) - (ownCPU() - start.own)
	other = max(0, other)
	r.ran += took
	r.otherCPU += other
	return float64(other) / float64(took) / float64(machineCPUs())
}

// busy returns a sentence about the CPU time of others during the runs.
func (r *runner) busy() string {
	if r.ran <= 0 {
		return "Other processes and other virtual machines: not measured."
	}
	return fmt.Sprintf("Other processes and other virtual machines used %.1f %% of the machine's CPU time during all runs that did not fail, including disturbed ones that were then repeated.",
		100*float64(r.otherCPU)/float64(r.ran)/float64(machineCPUs()))
}

// tick is the unit of times in /proc: 1/USER_HZ seconds.
const tick = 10 * time.Millisecond

// machineBusy returns the time that all cores together have not been idle.
func machineBusy() time.Duration {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	return busyTime(line)
}

// busyTime returns the time in a line of /proc/stat that is not idle. This includes steal, in which the hypervisor ran
// other virtual machines although this one had work: that disturbs a run as other processes do.
func busyTime(line string) (busy time.Duration) {
	for i, s := range strings.Fields(line) {
		// The line is: cpu user nice system idle iowait irq softirq steal guest guest_nice. The
		// guest times are part of user.
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && i != 4 && i != 5 && i < 9 {
			busy += time.Duration(n) * tick
		}
	}
	return busy
}

// machineCPUs returns the number of cores of the machine.
func machineCPUs() (n int) {
	b, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "cpu") && !strings.HasPrefix(line, "cpu ") {
			n++
		}
	}
	return max(n, 1)
}

// ksoftirqdCPU returns the CPU time that the ksoftirqd threads with the given PIDs have used.
func ksoftirqdCPU(pids []string) (used time.Duration) {
	for _, pid := range pids {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		// After the name in parentheses come the state, ten more fields, utime and stime.
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) < 13 {
			continue
		}
		for _, s := range f[11:13] {
			n, _ := strconv.ParseInt(s, 10, 64)
			used += time.Duration(n) * tick
		}
	}
	return used
}

// findKsoftirqds returns the PIDs of the ksoftirqd threads, which never end.
func findKsoftirqds() (pids []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(b), "ksoftirqd/") {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}
