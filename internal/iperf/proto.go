// Package iperf speaks the protocol of iperf3, as client and as server. The programs on both sides measure
// how fast TCP or UDP moves data between them, and each reports what both have counted.
//
// A test has a control connection over TCP, on which the client first sends a cookie. Then the two sides send
// states, of one byte each, and JSON with its length in front: the parameters of the test, and at the end the
// results. The data flows over streams, which are further TCP connections to the same port that begin with the
// same cookie, or UDP sockets. The protocol has no specification; this package follows iperf 3.12.
//
// The package needs only net.Conn, net.Listener and net.PacketConn.
package iperf

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

// Port is the port of an iperf3 server.
const Port = 5201

// A state is what one side tells the other on the control connection.
type state int8

const (
	testStart       state = 1
	testRunning     state = 2
	testEnd         state = 4
	paramExchange   state = 9
	createStreams   state = 10
	serverTerminate state = 11
	clientTerminate state = 12
	exchangeResults state = 13
	displayResults  state = 14
	testDone        state = 16
	accessDenied    state = -1
	serverError     state = -2
)

var stateNames = map[state]string{
	testStart: "TEST_START", testRunning: "TEST_RUNNING", testEnd: "TEST_END", paramExchange: "PARAM_EXCHANGE",
	createStreams: "CREATE_STREAMS", serverTerminate: "SERVER_TERMINATE", clientTerminate: "CLIENT_TERMINATE",
	exchangeResults: "EXCHANGE_RESULTS", displayResults: "DISPLAY_RESULTS", testDone: "IPERF_DONE",
	accessDenied: "ACCESS_DENIED", serverError: "SERVER_ERROR",
}

func (s state) String() string {
	if name, ok := stateNames[s]; ok {
		return name
	}
	return fmt.Sprintf("state %d", int8(s))
}

// Errors of a test.
var (
	ErrBusy       = errors.New("the server is busy with another test")
	ErrTerminated = errors.New("the peer has ended the test")
	ErrClosed     = errors.New("the peer has closed the control connection")
	ErrProtocol   = errors.New("the peer does not follow the protocol")
	ErrStalled    = errors.New("the test makes no progress")
)

// A ServerError is a failure that a server reports. Code is iperf3's number of the error. Errno is that of the
// server's system, or 0.
type ServerError struct {
	Code, Errno int32
}

// Codes of a ServerError, from iperf3.
const (
	codeDuration     = 5
	codeStreams      = 6
	codeBlockSize    = 7
	codeOmit         = 12
	codeUDPBlockSize = 20
	codeRecvParams   = 114
	codeProtocol     = 131
	codeCreateStream = 200
	codeListen       = 202
)

var codeTexts = map[int32]string{
	codeDuration:     "the duration is out of range",
	codeStreams:      "the number of streams is out of range",
	codeBlockSize:    "the block size is out of range",
	codeOmit:         "it cannot omit the first seconds of a test",
	codeUDPBlockSize: "the block size is out of range for UDP",
	codeRecvParams:   "it cannot read the parameters",
	codeProtocol:     "it does not have the protocol of the test",
	codeCreateStream: "it cannot create a stream",
	codeListen:       "it cannot listen for streams",
}

func (e *ServerError) Error() string {
	text := codeTexts[e.Code]
	if text == "" {
		text = "an error of iperf3"
	}
	return fmt.Sprintf("the server reports: %s (code %d, errno %d)", text, e.Code, e.Errno)
}

// Limits of what is read from a peer. iperf3 limits the parameters to 8 KiB. Results are larger if they hold
// the other side's output.
const (
	maxParams  = 64 << 10
	maxResults = 1 << 20
)

// patience is how long one side waits for a message of the other.
const patience = 30 * time.Second

// cookieSize is the size of a cookie: 36 characters and a zero byte.
const cookieSize = 37

type cookie [cookieSize]byte

// newCookie returns a random cookie, in the alphabet of iperf3.
func newCookie() (c cookie) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	rand.Read(c[:cookieSize-1])
	for i := range cookieSize - 1 {
		c[i] = alphabet[c[i]%byte(len(alphabet))]
	}
	return c
}

// Datagrams with which a client and a server begin a UDP stream.
const (
	udpHello     = "9876"
	udpReply     = "6789"
	udpReplyPast = "\xb1\x68\xde\x3a" // before iperf 3.10: 987654321, the lowest byte first
)

// writeState sends a state.
func writeState(c net.Conn, s state) error {
	c.SetWriteDeadline(time.Now().Add(patience))
	_, err := c.Write([]byte{byte(s)})
	return err
}

// readState reads a state, and the error that belongs to SERVER_ERROR. It returns an error for the states that
// end a test.
func readState(r io.Reader) (state, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, endOf(err)
	}
	switch s := state(b[0]); s {
	case accessDenied:
		return s, ErrBusy
	case serverTerminate, clientTerminate:
		return s, ErrTerminated
	case serverError:
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return s, endOf(err)
		}
		return s, &ServerError{int32(binary.BigEndian.Uint32(b[:])), int32(binary.BigEndian.Uint32(b[4:]))}
	default:
		return s, nil
	}
}

// expect reads a state and returns an error if it is not the state want.
func expect(c net.Conn, want state) error {
	c.SetReadDeadline(time.Now().Add(patience))
	got, err := readState(c)
	if err == nil && got != want {
		err = unexpected(got, want)
	}
	return err
}

func unexpected(got, want state) error {
	return fmt.Errorf("%w: %v instead of %v", ErrProtocol, got, want)
}

// endOf replaces the end of a stream by ErrClosed.
func endOf(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrClosed
	}
	return err
}

// writeMessage sends v as JSON.
func writeMessage(c net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(patience))
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readMessage reads JSON of at most limit bytes into v. It allocates memory for what has arrived, and not for
// what the length in front of the JSON announces.
func readMessage(r io.Reader, limit int64, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return endOf(err)
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n == 0 || n > limit {
		return fmt.Errorf("%w: a message of %d bytes, at most %d are allowed", ErrProtocol, n, limit)
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, n); err != nil {
		return endOf(err)
	}
	if err := json.Unmarshal(buf.Bytes(), v); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// receiveMessage is readMessage with a deadline.
func receiveMessage(c net.Conn, limit int64, v any) error {
	c.SetReadDeadline(time.Now().Add(patience))
	return readMessage(c, limit, v)
}

// A number is a JSON number. iperf3 writes large integers with an exponent, which encoding/json does not
// read into an integer.
type number float64

// maxCount is the largest number of bytes or packets that is accepted from a peer. All integers up to it are
// exact in a float64.
const maxCount = 1 << 53

// count returns n as a number of bytes or packets. It reports false if n is not one.
func (n number) count() (int64, bool) {
	if !(n >= 0 && n <= maxCount) || n != number(math.Trunc(float64(n))) {
		return 0, false
	}
	return int64(n), true
}

// A flag is true if its key is there, as in iperf3, whatever its type, unless it is false, 0 or null.
type flag bool

func (f *flag) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "false", "0", "null":
		*f = false
	default:
		*f = true
	}
	return nil
}
