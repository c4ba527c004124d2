package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
)

// An inspected is a host with an inspector on a Unix socket. The host listens on TCP 80 and 443, has a connection to
// each, and UDP sockets.
type inspected struct {
	*network
	socket string
	conns  []net.Conn // of the peer: IPv4 to port 80, IPv6 to port 443
}

func newInspected(t *testing.T) *inspected {
	t.Helper()
	n := &inspected{network: ncWire(t), socket: filepath.Join(t.TempDir(), "s")}
	show := inspectFlags{socket: n.socket}
	end, err := show.listenSocket(n.host)
	require.NoError(t, err)
	t.Cleanup(end)
	for _, a := range []string{"192.0.2.2:80", "[2001:db8::2]:443"} {
		ln, err := n.host.Listen("tcp", a[strings.LastIndexByte(a, ':'):])
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
		c, err := n.peer.Dial("tcp", a)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		n.conns = append(n.conns, c)
		s, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		_, err = s.Write(make([]byte, 1000))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1000))
		require.NoError(t, err)
	}
	// The acknowledgement of the 1000 bytes may be delayed.
	require.Eventually(t, func() bool {
		for c := range n.host.Conns() {
			if c.SendQ != 0 {
				return false
			}
		}
		return true
	}, time.Minute, time.Millisecond)
	pc, err := n.host.ListenPacket("udp", ":53")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	u, err := n.host.Dial("udp", "192.0.2.1:123")
	require.NoError(t, err)
	t.Cleanup(func() { u.Close() })
	return n
}

// port returns the port of a connection of the peer.
func (n *inspected) port(i int) int { return n.conns[i].LocalAddr().(*net.TCPAddr).Port }

// ss runs the command and returns its lines, with one space between the columns.
func (n *inspected) ss(t *testing.T, args ...string) (lines []string) {
	t.Helper()
	i := 0
	for i < len(args) && strings.HasPrefix(args[i], "-") {
		i++
	}
	args = append(append(append([]string{"ss"}, args[:i]...), n.socket), args[i:]...)
	code, out, errs := runLine(t, args...)
	require.Equal(t, exitOK, code, "%v: %s", args, errs)
	for line := range strings.Lines(out) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

func TestSSListsTheSocketsOfAProgram(t *testing.T) {
	n := newInspected(t)
	four := fmt.Sprintf("ESTAB 0 0 192.0.2.2:80 192.0.2.1:%d", n.port(0))
	six := fmt.Sprintf("ESTAB 0 0 [2001:db8::2]:443 [2001:db8::1]:%d", n.port(1))
	ntp := n.ss(t, "-unH")
	require.Len(t, ntp, 1)
	require.Regexp(t, `^ESTAB 0 0 192\.0\.2\.2:\d+ 192\.0\.2\.1:123$`, ntp[0])
	listen := []string{"LISTEN 0 4096 *:80 *:*", "LISTEN 0 4096 *:443 *:*"}
	for _, c := range []struct {
		args string
		want []string
	}{
		{"-tnH", []string{four, six}},
		{"-4tnH", []string{four}},
		{"-6tnH", []string{six}},
		{"-ltnH", listen},
		{"-ltH", []string{"LISTEN 0 4096 *:http *:*", "LISTEN 0 4096 *:https *:*"}},
		{"-atnH", []string{listen[0], listen[1], four, six}},
		{"-lunH", []string{"UNCONN 0 0 *:53 *:*"}},
		{"-tn", []string{"State Recv-Q Send-Q Local Address:Port Peer Address:Port", four, six}},
		{"-nH", []string{"udp " + ntp[0], "tcp " + four, "tcp " + six}},
		{"-tnH sport = :443", []string{six}},
		{"-tnH sport :http", []string{four}},
		{"-tnH state established dst 192.0.2.0/24", []string{four}},
		{"-tnH exclude established", listen},
		{"-tnH state listening sport < :100", []string{listen[0]}},
		{"-tnH not ( sport == :80 or dst [2001:db8::1] )", nil},
		{"-tnH ( sport == :80 or dst [2001:db8::1] )", []string{four, six}},
		{"-tnH src [2001:db8::]/64:443", []string{six}},
		{"-tnH src != 192.0.2.2", []string{six}},
		{"-tnH dst 192.0.2.1:" + fmt.Sprint(n.port(0)), []string{four}},
	} {
		require.ElementsMatch(t, c.want, n.ss(t, strings.Fields(c.args)...), c.args)
	}
	info := n.ss(t, "-tinoH", "sport", "=", ":80")
	require.Len(t, info, 2)
	require.Regexp(t, `^`+four+` timer:\(keepalive,\d+sec\)$`, info[0])
	require.Regexp(t, `^ts sack cubic wscale:\d+,\d+ rto:[\d.]+ rtt:[\d.]+/[\d.]+ mss:1448 .* bytes_sent:1000 bytes_acked:1000 segs_out:\d+ segs_in:\d+ data_segs_out:1 send `, info[1])
	require.Equal(t, []string{"Total: 6", "TCP: 4 (estab 2, listen 2, synrecv 0, orphaned 0, timewait 0)", "UDP and raw: 2"}, n.ss(t, "-s"))

	_, out, _ := runLine(t, "ss", "-tj", n.socket, "sport = :443")
	var all []struct {
		Netid, ID, State string
		Info             inspect.Info
	}
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Len(t, all, 1)
	require.Equal(t, "tcp ESTABLISHED 1000", fmt.Sprint(all[0].Netid, " ", all[0].State, " ", all[0].Info.BytesAcked))

	// More connections than an answer of the inspector has.
	ln, err := n.host.Listen("tcp", ":8080")
	require.NoError(t, err)
	defer ln.Close()
	for range pageSize + 10 {
		c, err := n.peer.Dial("tcp", "192.0.2.2:8080")
		require.NoError(t, err)
		defer c.Close()
	}
	require.Len(t, n.ss(t, "-tnH", "sport = :8080"), pageSize+10)
}

func TestSSResetsConnections(t *testing.T) {
	n := newInspected(t)
	require.Len(t, n.ss(t, "-KH", "dst 192.0.2.1"), 1)
	_, err := n.conns[0].Read(make([]byte, 1))
	require.ErrorContains(t, err, "connection reset by peer")
	lines := n.ss(t, "-tnH")
	require.Len(t, lines, 1, "the other connection stays")
	require.Contains(t, lines[0], "2001:db8::2")
}

func TestSSAndTopExplainErrors(t *testing.T) {
	h, err := usernet.New(usernet.Config{})
	require.NoError(t, err)
	defer h.Close()
	srv := httptest.NewServer(inspect.NewHandler(h, inspect.Config{Token: "secret"}))
	defer srv.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }))
	defer other.Close()
	for _, c := range []struct{ args, want string }{
		{"ss " + srv.URL, "this page needs its token"},
		{"ss " + srv.URL + "?token=wrong", "this page needs its token"},
		{"top " + srv.URL, "this page needs its token"},
		{"ss " + other.URL, "not the answer of package inspect"},
		{"top -n 1 " + other.URL, "the program has ended the stream"},
		{"ss -K " + srv.URL + "?token=secret state all", ""},
		{"ss http://127.0.0.1:1/", "connection refused"},
	} {
		code, _, errs := runLine(t, strings.Fields(c.args)...)
		if c.want == "" {
			require.Equal(t, exitOK, code, errs)
			continue
		}
		require.Equal(t, exitFailure, code, c.args)
		require.Contains(t, errs, c.want, c.args)
	}
}

func TestSSRoundsTimes(t *testing.T) {
	for s, want := range map[float64]string{
		0: "0ms", 0.1234: "123ms", 0.9994: "999ms", 0.9997: "1sec", 1.4: "1sec", 59.4: "59sec", 59.7: "1min0sec",
		60: "1min0sec", 90: "1min30sec", 119.7: "2min0sec", 7200: "120min0sec",
	} {
		require.Equal(t, want, shortSeconds(s), "%v", s)
	}
}

func TestSSFilterBearsAnything(t *testing.T) {
	e := &ssEntry{network: "tcp", state: "established", local: netip.MustParseAddrPort("192.0.2.2:80")}
	words := []string{"state", "exclude", "all", "established", "(", ")", "not", "!", "and", "or", "dport", "sport", "dst", "src", "=", "!=", "<=", ":80", "80", "*", "[::1]:80", "[", "]", "/", "10/8", "::", ""}
	for i := range words {
		for j := range words {
			for k := range words {
				if f, err := parseSSFilter([]string{words[i], words[j] + " " + words[k]}); err == nil {
					f.match(e)
				}
			}
		}
	}
}

func TestTopPrintsTables(t *testing.T) {
	n := newInspected(t)
	code, out, errs := runLine(t, "top", "-n", "2", "-d", "0.5", "-sort", "bytes_out", n.socket)
	require.Equal(t, exitOK, code, errs)
	require.Equal(t, 2, strings.Count(out, "LOCAL "), out)
	require.Regexp(t, `up \d+s  2 connections \(2 established\), 2 listeners, 2 sockets`, out)
	require.Contains(t, out, "*TOTAL-OUT")
	require.Regexp(t, fmt.Sprintf(`\[2001:db8::2\]:443 +\[2001:db8::1\]:%d +ESTABLISHED +0bps +0bps +0 +1000 +[\d.]+ms`, n.port(1)), out)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Equal(t, exitOK, run(ctx, []string{"top", n.socket}, terminal{io.Discard, io.Discard}), "Ctrl-C")
}

func TestTopScrollsByScreens(t *testing.T) {
	v := view{sort: "rate", limit: 10}
	press := func(k topKey) int {
		k.change()(&v)
		return v.offset
	}
	require.Zero(t, press(keyDown), "before the first table")
	v.total = 25
	require.Equal(t, 10, press(keyDown))
	require.Equal(t, 20, press(keyDown))
	require.Equal(t, 20, press(keyDown), "the end")
	require.Equal(t, 10, press(keyUp))
	require.Zero(t, press(keyUp))
	require.Zero(t, press(keyUp))
	require.Equal(t, 10, press(keyDown))
	require.Zero(t, press(keyNext), "another order begins at the top")
	require.Equal(t, "rate_in", v.sort)
	press(keyPrevious)
	press(keyPrevious)
	require.Equal(t, topKeys[len(topKeys)-1], v.sort)
	require.Nil(t, keyQuit.change())
}

// screen goes back when the connections of its view have ended.
func TestTopScrollsBackWhenConnectionsEnd(t *testing.T) {
	n := newInspected(t)
	from, err := newInspector(n.socket)
	require.NoError(t, err)
	f := topFlags{interval: 0.5}
	shown := 0
	v := view{sort: "rate", limit: 1, offset: 5}
	change, err := f.screen(t.Context(), io.Discard, from, v, 100, nil, &shown)
	require.NoError(t, err)
	change(&v)
	require.Equal(t, view{sort: "rate", limit: 1, offset: 1, total: 2}, v)
	require.Zero(t, shown)
}

func TestTopShowsRates(t *testing.T) {
	in, out := 1e6, 2.5e8
	o := &inspect.Overview{Host: inspect.HostInfo{UptimeS: 90}}
	c := &inspect.Conns{Total: 3, Conns: []inspect.Conn{{Local: "192.0.2.2:80", Remote: "evil\x1b[2J", State: "ESTABLISHED", RateIn: &in, RateOut: &out, Cwnd: 3 << 20, Retrans: 7}}}
	table := topTable(o, c, view{sort: "rate"}, 1000)
	require.Contains(t, table, "up 1m30s  0 connections")
	require.Contains(t, table, "in 8.0Mbps  out 2.00Gbps of the connections shown")
	require.Contains(t, table, "… and 2 more")
	require.Contains(t, table, "evil?[2J", "no codes of the terminal")
	require.Contains(t, topTable(o, c, view{sort: "rate", offset: 1}, 1000), "… and 1 more", "those above are not counted")
	require.NotContains(t, topTable(o, c, view{sort: "rate", offset: 2}, 1000), "more")
	for line := range strings.Lines(topTable(o, c, view{sort: "rate"}, 40)) {
		require.LessOrEqual(t, len([]rune(line)), 41)
	}
	require.Equal(t, []topKey{keyNext, keyUp, keyDown, keyNext, keyPrevious, keyQuit}, parseKeys([]byte("s\x1b[A\x1b[B\x1bOC\x1b[Dxq")))
	require.Equal(t, []string{"0", "1023", "1.0K", "1.5M", "16.0E"}, []string{size(0), size(1023), size(1024), size(3 << 19), size(1<<64 - 1)})
}
