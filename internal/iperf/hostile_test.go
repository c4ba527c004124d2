package iperf

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
)

// A raw is the control connection of an iperf3 client whose messages the test writes by hand.
type raw struct {
	net.Conn
	streams []net.Conn
}

func dialRaw(t *testing.T, h *usernet.Host) *raw {
	t.Helper()
	c, err := h.Dial("tcp", "192.0.2.2:5201")
	require.NoError(t, err)
	return &raw{Conn: c}
}

func (c *raw) close() {
	c.Close()
	for _, s := range c.streams {
		s.Close()
	}
}

// message returns JSON after its length, as the control connection carries it.
func message(json string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(json)))) + json
}

var testCookie = strings.Repeat("a", 36) + "\x00"

// say sends what a client sends in a step of a test. It sends nothing in the steps "" and "nothing".
func (c *raw) say(t *testing.T, h *usernet.Host, step string) {
	t.Helper()
	var err error
	switch step {
	case "cookie":
		_, err = io.WriteString(c, testCookie)
	case "params":
		_, err = io.WriteString(c, message(`{"tcp":true,"time":10,"parallel":1,"len":1000}`))
	case "streams":
		time.Sleep(time.Second) // until the server wants streams
		var s net.Conn
		s, err = h.Dial("tcp", "192.0.2.2:5201")
		require.NoError(t, err)
		c.streams = append(c.streams, s)
		_, err = io.WriteString(s, testCookie)
	case "results":
		_, err = c.Write([]byte{byte(testEnd)})
	}
	require.NoError(t, err)
}

// A hostile client gets a clear error at the server, and the server then runs the next test.
func TestAServerBearsHostileClients(t *testing.T) {
	addr, ends := startServer(t, "127.0.0.1")
	const params = `{"tcp":true,"time":1,"parallel":1,"len":1000}`
	// said is all that a client sends on the control connection; want is in the server's error.
	for _, c := range []struct{ said, want string }{
		{testCookie + "\xff\xff\xff\xff{}", "a message of 4294967295 bytes, at most 65536 are allowed"},
		{testCookie + "\x00\x00\x00\x00", "a message of 0 bytes"},
		{testCookie + "\x00\x00\xff\xff{", "closed the control connection"},
		{testCookie + message(`{"tcp":`), "unexpected end of JSON input"},
		{testCookie + message(`[1,2]`), "cannot unmarshal array"},
		{testCookie + message(`{}`), "neither TCP nor UDP"},
		{testCookie + message(`{"tcp":true,"udp":true}`), "neither TCP nor UDP"},
		{testCookie + message(`{"tcp":true,"time":10}`), "0 streams, not 1 to 128"},
		{testCookie + message(`{"tcp":true,"time":10,"parallel":1e300}`), "parallel is 1e+300"},
		{testCookie + message(`{"tcp":true,"time":10,"parallel":1e9}`), "129 streams, not 1 to 128"},
		{testCookie + message(`{"tcp":true,"time":10,"parallel":-1}`), "parallel is -1"},
		{testCookie + message(`{"tcp":true,"time":10,"parallel":1.5}`), "parallel is 1.5"},
		{testCookie + message(`{"tcp":true,"time":1e9,"parallel":1}`), "a duration of 1e+09 s"},
		{testCookie + message(`{"tcp":true,"time":0,"parallel":1}`), "neither a duration nor a number of bytes"},
		{testCookie + message(`{"tcp":true,"time":1,"parallel":1,"len":2000000}`), "blocks of 1048577 bytes"},
		{testCookie + message(`{"udp":true,"time":1,"parallel":1,"len":15}`), "datagrams of 15 bytes, not 16 to 65507"},
		{testCookie + message(`{"tcp":true,"time":1,"parallel":1,"reverse":1,"bidirectional":1}`), "either reverse or bidirectional"},
		{testCookie + message(params) + "\x63", "state 99 before the test runs"},
		{testCookie + message(params) + "\x0c", ErrTerminated.Error()}, // CLIENT_TERMINATE
		{testCookie + message(params), ErrClosed.Error()},
		{testCookie + message(`{"udp":true,"time":1,"parallel":1,"len":1000}`), ErrClosed.Error()},
	} {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		io.WriteString(conn, c.said) // an error means that the server has already ended the test
		conn.(*net.TCPConn).CloseWrite()
		end := <-ends
		require.ErrorContains(t, end.err, c.want, "%q", c.said)
		conn.Close()
	}
	good, _ := newClient(addr, Params{Bytes: 100_000})
	require.NoError(t, good.Run(t.Context()))
	require.NoError(t, (<-ends).err)
}

// startTest makes a control connection whose test runs, with one stream.
func startTest(t *testing.T, addr string) (ctrl, stream net.Conn) {
	t.Helper()
	ctrl, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { ctrl.Close() })
	ctrl.SetDeadline(time.Now().Add(time.Minute))
	_, err = io.WriteString(ctrl, testCookie+message(`{"tcp":true,"time":600,"parallel":1,"len":1000}`))
	require.NoError(t, err)
	b := make([]byte, 2)
	_, err = io.ReadFull(ctrl, b)
	require.NoError(t, err)
	require.Equal(t, []byte{byte(paramExchange), byte(createStreams)}, b)
	// A connection with another cookie is refused, and is no stream.
	other, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer other.Close()
	_, err = io.WriteString(other, strings.Repeat("b", cookieSize))
	require.NoError(t, err)
	refused, err := io.ReadAll(other)
	require.NoError(t, err)
	require.Equal(t, []byte{0xff}, refused)

	stream, err = net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { stream.Close() })
	_, err = io.WriteString(stream, testCookie)
	require.NoError(t, err)
	_, err = io.ReadFull(ctrl, b)
	require.NoError(t, err)
	require.Equal(t, []byte{byte(testStart), byte(testRunning)}, b)
	return ctrl, stream
}

func TestAServerBearsClientsThatFailInATest(t *testing.T) {
	addr, ends := startServer(t, "127.0.0.1")
	// "\x04" is TEST_END, after which the client sends its results.
	for name, c := range map[string]struct {
		act  func(ctrl, stream net.Conn)
		want string
	}{
		"the control connection closes": {func(ctrl, _ net.Conn) { ctrl.Close() }, ErrClosed.Error()},
		"a stream closes":               {func(_, stream net.Conn) { stream.Close() }, "stream 1: "},
		"an unknown state":              {func(ctrl, _ net.Conn) { ctrl.Write([]byte{77}) }, "state 77 while the test runs"},
		"results are cut": {func(ctrl, _ net.Conn) {
			io.WriteString(ctrl, "\x04\x00\x00\x10\x00{")
			ctrl.(*net.TCPConn).CloseWrite()
		}, ErrClosed.Error()},
		"results are too long":        {func(ctrl, _ net.Conn) { io.WriteString(ctrl, "\x04\x7f\x00\x00\x00") }, "at most 1048576 are allowed"},
		"results lack the stream":     {func(ctrl, _ net.Conn) { io.WriteString(ctrl, "\x04"+message(`{"streams":[]}`)) }, "the results have no stream 1"},
		"results have another stream": {func(ctrl, _ net.Conn) { io.WriteString(ctrl, "\x04"+message(`{"streams":[{"id":2}]}`)) }, "the results have a stream 2"},
		"results have a stream twice": {func(ctrl, _ net.Conn) {
			io.WriteString(ctrl, "\x04"+message(`{"streams":[{"id":1,"bytes":1},{"id":1,"bytes":1}]}`))
		}, "the results have a stream 1"},
		"bytes are negative": {func(ctrl, _ net.Conn) { io.WriteString(ctrl, "\x04"+message(`{"streams":[{"id":1,"bytes":-5}]}`)) }, "are not numbers of bytes and packets"},
	} {
		ctrl, stream := startTest(t, addr)
		c.act(ctrl, stream)
		require.ErrorContains(t, (<-ends).err, c.want, name)
		ctrl.Close()
		stream.Close()
	}
}

// A server that does not follow the protocol is a clear error at the client.
func TestAClientBearsHostileServers(t *testing.T) {
	// said is all that a server sends. Its first byte is a state: "\x09" is PARAM_EXCHANGE, "\x0b" SERVER_TERMINATE,
	// "\xfe" SERVER_ERROR and "\xff" ACCESS_DENIED.
	for name, c := range map[string]struct {
		said string
		want string
	}{
		"nothing":              {"", ErrClosed.Error()},
		"busy":                 {"\xff", ErrBusy.Error()},
		"an unknown state":     {"\x63", "state 99 instead of PARAM_EXCHANGE"},
		"a state too early":    {"\x02", "TEST_RUNNING instead of PARAM_EXCHANGE"},
		"an error":             {"\xfe\x00\x00\x00\x06\x00\x00\x00\x16", "the number of streams is out of range (code 6, errno 22)"},
		"an unknown error":     {"\xfe\x00\x00\x03\xe7\x00\x00\x00\x00", "an error of iperf3 (code 999, errno 0)"},
		"half of an error":     {"\xfe\x00\x00", ErrClosed.Error()},
		"the end":              {"\x0b", ErrTerminated.Error()},
		"an end before a test": {"\x09\x0b", ErrTerminated.Error()},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, c.said)
			conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		}()
		client, _ := newClient(ln.Addr().String(), Params{Bytes: 1000})
		require.ErrorContains(t, client.Run(t.Context()), c.want, name)
		ln.Close()
	}
}

// A message that announces much and holds little costs little memory.
func TestAnAnnouncedLengthAllocatesNothing(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, maxResults)
	var m resultsMessage
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const runs = 1000
	for range runs {
		require.ErrorIs(t, readMessage(bytes.NewReader(head), maxResults, &m), ErrClosed)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, (after.TotalAlloc-before.TotalAlloc)/runs, uint64(16<<10)) // of the 1 MiB that head announces
}

// Connections that send no cookie do not keep others out, and end when the server does.
func TestSilentConnectionsDoNotBlockAServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- (&Server{Listener: ln}).Serve(ctx) }()
	var silent []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		silent = append(silent, c)
	}
	good, _ := newClient(ln.Addr().String(), Params{Bytes: 100_000})
	require.NoError(t, good.Run(t.Context()))
	cancel()
	require.NoError(t, <-done)
	for _, c := range silent {
		c.SetDeadline(time.Now().Add(time.Minute))
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		c.Close()
	}
}

// FuzzMessages reads what a peer sends: a state, parameters, results and a datagram. What is accepted is in
// range, and the parameters survive being sent on.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("\x09" + message(`{"tcp":true,"omit":0,"time":10,"num":0,"blockcount":0,"parallel":1,"len":131072,"pacing_timer":1000,"client_version":"3.12"}`)))
	f.Add([]byte("\x09" + message(`{"udp":true,"time":1,"parallel":2,"len":1448,"bandwidth":1048576,"udp_counters_64bit":1,"reverse":true}`)))
	f.Add([]byte("\x0d" + message(`{"cpu_util_total":1.5,"sender_has_retransmits":-1,"streams":[{"id":1,"bytes":1.5e3,"retransmits":-1,"jitter":1e-05,"errors":0,"packets":5,"start_time":0,"end_time":1.0001}]}`)))
	f.Add([]byte("\xfe\x00\x00\x00\x06\x00\x00\x00\x16"))
	f.Fuzz(func(t *testing.T, b []byte) {
		readState(bytes.NewReader(b))
		if len(b) < 1 {
			return
		}
		var pm paramsMessage
		if readMessage(bytes.NewReader(b[1:]), maxParams, &pm) == nil {
			if p, err := pm.params(); err == nil {
				require.NoError(t, p.check())
				require.LessOrEqual(t, p.total(), 2*maxStreams)
				sent, err := json.Marshal(p.message())
				require.NoError(t, err)
				var again paramsMessage
				require.NoError(t, readMessage(strings.NewReader(message(string(sent))), maxParams, &again))
				q, err := again.params()
				require.NoError(t, err)
				q.Duration = p.Duration // whole seconds are sent
				require.Equal(t, p, q)
			}
		}
		var rm resultsMessage
		if readMessage(bytes.NewReader(b[1:]), maxResults, &rm) == nil {
			if peer, err := rm.results([]*stream{{id: 1}, {id: 3}}); err == nil { // iperf3 gives no stream the ID 2
				require.Len(t, peer, 2)
				for _, p := range peer {
					require.True(t, p.bytes >= 0 && p.bytes <= maxCount && p.lost >= 0 && p.packets >= 0 && p.retransmits >= -1)
					require.GreaterOrEqual(t, seconds(p.seconds), time.Duration(0))
				}
			}
		}
		s := &stream{wide: b[0]&1 != 0}
		if s.datagram(b[1:], time.Unix(1, 0), 0) {
			lost, disorder, jitter := s.loss()
			require.True(t, lost >= 0 && lost < maxCount && disorder >= 0 && jitter >= 0)
		}
	})
}
