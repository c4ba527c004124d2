package ppp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rfc1661 is the state transition table of RFC 1661 4.1, without the marks r (restart option), p (passive
// option) and x (crossed connection).
const rfc1661 = `
      |    0         1         2         3         4         5
 Up   |    2     irc,scr/6     -         -         -         -
 Down |    -         -         0       tls/1       0         1
 Open |  tls/1       1     irc,scr/6     3         5         5
 Close|    0       tlf/0       2         2         4         4
  TO+ |    -         -         -         -       str/4     str/5
  TO- |    -         -         -         -       tlf/2     tlf/3
 RCR+ |    -         -       sta/2 irc,scr,sca/8   4         5
 RCR- |    -         -       sta/2 irc,scr,scn/6   4         5
 RCA  |    -         -       sta/2     sta/3       4         5
 RCN  |    -         -       sta/2     sta/3       4         5
 RTR  |    -         -       sta/2     sta/3     sta/4     sta/5
 RTA  |    -         -         2         3       tlf/2     tlf/3
 RUC  |    -         -       scj/2     scj/3     scj/4     scj/5
 RXJ+ |    -         -         2         3         4         5
 RXJ- |    -         -       tlf/2     tlf/3     tlf/2     tlf/3
 RXR  |    -         -         2         3         4         5
      |    6         7         8           9
 Up   |    -         -         -           -
 Down |    1         1         1         tld/1
 Open |    6         7         8           9
 Close|irc,str/4 irc,str/4 irc,str/4 tld,irc,str/4
  TO+ |  scr/6     scr/6     scr/8         -
  TO- | tlf/3     tlf/3     tlf/3          -
 RCR+ |  sca/8   sca,tlu/9   sca/8   tld,scr,sca/8
 RCR- |  scn/6     scn/7     scn/6   tld,scr,scn/6
 RCA  |  irc/7     scr/6   irc,tlu/9   tld,scr/6
 RCN  |irc,scr/6   scr/6   irc,scr/8   tld,scr/6
 RTR  |  sta/6     sta/6     sta/6   tld,zrc,sta/5
 RTA  |    6         6         8       tld,scr/6
 RUC  |  scj/6     scj/7     scj/8       scj/9
 RXJ+ |    6         6         8           9
 RXJ- |  tlf/3     tlf/3     tlf/3   tld,irc,str/5
 RXR  |    6         7         8         ser/9
`

// tableRows parses rfc1661: for each event by name, the ten entries.
func tableRows(t *testing.T) map[string][]string {
	t.Helper()
	rows := make(map[string][]string)
	for line := range strings.Lines(rfc1661) {
		name, entries, ok := strings.Cut(line, "|")
		if name = strings.TrimSpace(name); ok && name != "" {
			rows[name] = append(rows[name], strings.Fields(entries)...)
		}
	}
	require.Len(t, rows, int(events))
	return rows
}

// A recorder is a layer that records the actions of an automaton.
type recorder struct {
	automaton
	did     []string
	verdict byte // the code with which it answers a Configure-Request
}

func (r *recorder) note(action string) { r.did = append(r.did, action) }

// In these tests, our option has the type 200, and the peer's has 201.
func (r *recorder) request(b []byte) []byte { return option{200, []byte{1}}.append(b) }
func (r *recorder) begin()                  {}
func (r *recorder) judge(o option) (byte, []byte) {
	return r.verdict, o.data
}
func (r *recorder) missing() []byte            { return nil }
func (r *recorder) refused(bool, option) error { return nil }
func (r *recorder) up(time.Time)               { r.note("tlu") }
func (r *recorder) down(time.Time)             { r.note("tld") }
func (r *recorder) finished(time.Time)         { r.note("tlf") }
func (r *recorder) failed(error)               {}
func (r *recorder) extra(now time.Time, p packet) bool {
	switch p.code {
	case echoRequest:
		r.echo = packet{echoReply, p.id, p.data}
		r.fire(now, evRXR)
		return true
	case codeReject:
		return true
	}
	return false
}

func (r *recorder) sent(_ uint16, p packet) {
	names := map[byte]string{configureRequest: "scr", configureAck: "sca", configureNak: "scn", configureReject: "scn",
		terminateRequest: "str", terminateAck: "sta", codeReject: "scj", echoReply: "ser"}
	r.note(names[p.code])
}

// inState returns a recorder in a state. Its last Configure-Request has the identifier 7.
func inState(s state) *recorder {
	r := &recorder{verdict: configureAck}
	r.automaton = automaton{layer: r, proto: protoLCP, send: r.sent, state: s, lastID: 7, restarts: 5}
	r.automaton.request = packet{configureRequest, 7, r.request(nil)}
	if s >= closing && s != opened {
		r.deadline = time.Unix(1001, 0)
	}
	return r
}

// provoke makes an event happen, by a packet if the event is the arrival of one.
func (r *recorder) provoke(now time.Time, name string) {
	receive := func(p packet) { r.receive(now, p.append(nil)) }
	switch name {
	case "Up":
		r.fire(now, evUp)
	case "Down":
		r.fire(now, evDown)
	case "Open":
		r.fire(now, evOpen)
	case "Close":
		r.fire(now, evClose)
	case "TO+", "TO-":
		if name == "TO-" {
			r.restarts = 0
		}
		r.deadline = now
		r.tick(now)
	case "RCR+", "RCR-":
		if name == "RCR-" {
			r.verdict = configureNak
		}
		receive(packet{configureRequest, 9, option{201, []byte{1}}.append(nil)})
	case "RCA":
		receive(packet{configureAck, 7, r.automaton.request.data})
	case "RCN":
		receive(packet{configureNak, 7, option{200, []byte{2}}.append(nil)})
	case "RTR":
		receive(packet{code: terminateRequest, id: 9})
	case "RTA":
		receive(packet{code: terminateAck, id: 9})
	case "RUC":
		receive(packet{code: 99, id: 9})
	case "RXJ+":
		receive(packet{codeReject, 9, []byte{99, 9, 0, 4}})
	case "RXJ-":
		receive(packet{codeReject, 9, []byte{configureRequest, 9, 0, 4}})
	case "RXR":
		receive(packet{echoRequest, 9, make([]byte, 4)})
	}
}

// Every event in every state does what the table of RFC 1661 4.1 says: the same actions that can be seen,
// in the same order, and the same next state.
func TestAutomatonFollowsTheTableOfRFC1661(t *testing.T) {
	now := time.Unix(1000, 0)
	cells := 0
	for name, row := range tableRows(t) {
		require.Len(t, row, 10, name)
		for s, entry := range row {
			cells++
			r := inState(state(s))
			r.provoke(now, name)
			where := fmt.Sprintf("%s in state %d", name, s)
			if entry == "-" {
				require.Equal(t, state(s), r.state, where)
				require.Empty(t, r.did, where)
				continue
			}
			actions, next := "", entry
			if i := strings.IndexByte(entry, '/'); i >= 0 {
				actions, next = entry[:i], entry[i+1:]
			}
			require.Equal(t, next, fmt.Sprint(int(r.state)), where)
			var want []string
			for _, a := range strings.FieldsFunc(actions, func(c rune) bool { return c == ',' }) {
				switch a {
				case "irc":
					if r.state == closing || r.state == stopping {
						require.LessOrEqual(t, r.restarts, maxTerminate, where)
					} else {
						require.GreaterOrEqual(t, r.restarts, maxConfigure-1, where)
					}
				case "zrc":
					require.Zero(t, r.restarts, where)
				case "tls": // the machine starts the lower layer by itself
				default:
					want = append(want, a)
				}
			}
			require.Equal(t, want, r.did, where)
			// RFC 1661 4.1: "The states in which the Restart timer is running are identifiable by the
			// presence of TO events."
			runs := tableRows(t)["TO+"][r.state] != "-"
			require.Equal(t, runs, !r.deadline.IsZero(), where)
		}
	}
	require.Equal(t, 160, cells)
}

// RFC 1661 4.6: Max-Configure "indicates the number of Configure-Request packets sent without receiving a
// valid Configure-Ack, Configure-Nak or Configure-Reject before assuming that the peer is unable to
// respond", 10 by default; and Max-Terminate is 2.
func TestRestartCounterLimitsRequests(t *testing.T) {
	now := time.Unix(1000, 0)
	r := inState(starting)
	r.fire(now, evUp)
	for range 20 {
		now = now.Add(restartTime)
		r.tick(now)
	}
	require.Equal(t, stopped, r.state)
	require.Equal(t, strings.Repeat("scr ", 10)+"tlf", strings.Join(r.did, " "))

	r = inState(opened)
	r.fire(now, evClose)
	for range 20 {
		now = now.Add(restartTime)
		r.tick(now)
	}
	require.Equal(t, closed, r.state)
	require.Equal(t, "tld str str tlf", strings.Join(r.did, " "))
}

// RFC 1661 4.6: after Max-Failure Configure-Naks, "any further Configure-Nak packets for peer requested
// options are converted to Configure-Reject packets".
func TestNaksBecomeRejects(t *testing.T) {
	now := time.Unix(1000, 0)
	r := inState(reqSent)
	var codes []byte
	r.automaton.send = func(_ uint16, p packet) { codes = append(codes, p.code) }
	r.verdict = configureNak
	for range 6 {
		r.receive(now, packet{configureRequest, 9, option{201, []byte{1}}.append(nil)}.append(nil))
	}
	require.Equal(t, []byte{3, 3, 3, 3, 3, 4}, codes) // Configure-Nak and Configure-Reject
}

// A reply to an older request, a repeated reply, and an Ack or Reject with other options change nothing.
func TestInvalidRepliesAreDropped(t *testing.T) {
	now := time.Unix(1000, 0)
	asked := option{200, []byte{1}}.append(nil)
	for name, p := range map[string]packet{
		"an old identifier":         {configureAck, 6, asked},
		"other options acked":       {configureAck, 7, option{200, []byte{2}}.append(nil)},
		"no options acked":          {configureAck, 7, nil},
		"an unknown option":         {configureReject, 7, option{201, []byte{1}}.append(nil)},
		"a changed option rejected": {configureReject, 7, option{200, []byte{2}}.append(nil)},
		"nothing rejected":          {configureReject, 7, nil},
		"a cut option":              {configureNak, 7, []byte{200, 9, 1}},
	} {
		for _, s := range []state{reqSent, ackRcvd, ackSent, opened} {
			r := inState(s)
			r.receive(now, p.append(nil))
			require.Equal(t, s, r.state, name)
			require.Empty(t, r.did, name)
		}
	}
	r := inState(ackSent)
	ack := packet{configureAck, 7, asked}.append(nil)
	r.receive(now, ack)
	require.Equal(t, opened, r.state)
	r.receive(now, ack) // a duplicate
	require.Equal(t, opened, r.state)
}

// A peer whose counter-proposals never end does not keep us busy for ever.
func TestEndlessNaksEndTheNegotiation(t *testing.T) {
	now := time.Unix(1000, 0)
	r := inState(reqSent)
	for n := 0; r.state == reqSent; n++ {
		require.Less(t, n, 100)
		r.receive(now, packet{configureNak, r.automaton.request.id, option{200, []byte{2}}.append(nil)}.append(nil))
	}
	require.Equal(t, closing, r.state)
}
