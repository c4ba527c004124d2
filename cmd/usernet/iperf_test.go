package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An iperfResult is what the tests read of the JSON of iperf.
type iperfResult struct {
	Error     string
	Intervals []any
	Start     struct {
		Connected []struct {
			Host string `json:"remote_host"`
		}
		Test struct {
			Proto   string  `json:"protocol"`
			Seconds float64 `json:"duration"`
		} `json:"test_start"`
	}
	End struct {
		Sum struct {
			Lost, Packets int64
			Bits          float64 `json:"bits_per_second"`
		}
		Sent struct {
			Bytes       int64
			Retransmits *int64
		} `json:"sum_sent"`
		Received struct{ Bytes int64 } `json:"sum_received"`
	}
}

// In virtual time, the commands take the time and have the rate that they are told.
func TestIperfOnAWireMeasuresWhatItIsTold(t *testing.T) {
	for _, c := range []struct {
		line  string
		check func(r iperfResult)
	}{
		{"-c 192.0.2.1 -n 3M -P 3", func(r iperfResult) {
			require.EqualValues(t, 3<<20, r.End.Sent.Bytes)
			require.EqualValues(t, 3<<20, r.End.Received.Bytes)
			require.Len(t, r.Start.Connected, 3)
			require.NotNil(t, r.End.Sent.Retransmits, "the stack counts them")
		}},
		{"-c [2001:db8::1] -6 -n 1000 -R", func(r iperfResult) {
			require.EqualValues(t, 1000, r.End.Received.Bytes)
			require.Equal(t, "2001:db8::1", r.Start.Connected[0].Host)
		}},
		{"-c 192.0.2.1 -u -b 8M -l 1000 -t 3", func(r iperfResult) {
			require.EqualValues(t, 3000, r.End.Sum.Packets)
			require.InDelta(t, 8e6, r.End.Sum.Bits, 1)
			require.Len(t, r.Intervals, 3)
			require.Equal(t, "UDP", r.Start.Test.Proto)
		}},
		{"-c 192.0.2.1 -u -t 2 -i 0", func(r iperfResult) {
			require.InDelta(t, 2<<20, float64(r.End.Sent.Bytes*8), 2*1460*8, "1 Mbit/s without -b, for 2 s")
			require.Empty(t, r.Intervals)
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			code, out, errs := runLine(t, append([]string{"iperf", "-wire", "-J"}, strings.Fields(c.line)...)...)
			require.Equal(t, exitOK, code, errs)
			var r iperfResult
			require.NoError(t, json.Unmarshal([]byte(out), &r), out)
			require.Empty(t, r.Error)
			c.check(r)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		code, out, errs := runLine(t, "iperf", "-wire", "-c", "192.0.2.1", "-u", "-b", "1M", "-t", "5", "-bidir")
		require.Equal(t, exitOK, code, errs)
		require.InDelta(t, 5, time.Since(began).Seconds(), 0.5)
		require.Contains(t, out, "Connected to 192.0.2.1:5201\n[  1] local 192.0.2.2:")
		require.Contains(t, out, "[  3]   4.00-5.00   sec")
	})
}

// At Ctrl-C a client prints what it has measured.
func TestIperfPrintsWhatItHasAtCtrlC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2500*time.Millisecond, cancel)
		var out, errs safeBuffer
		code := run(ctx, strings.Fields("iperf -wire -c 192.0.2.1 -u -b 8M -l 1000 -t 100"), terminal{&out, &errs})
		require.Equal(t, exitFailure, code)
		require.Equal(t, "usernet iperf: interrupted\n", errs.String())
		// 8 Mbit/s for 2.5 s are 2.5e6 bytes, which are 2.38 MBytes of 1<<20.
		require.Regexp(t, `0\.00-2\.50   sec   2\.3[89] MBytes   8\.00 Mbits/sec .*  sender\n`, out.String())
		require.NotContains(t, out.String(), "receiver", "the server has not told what it received")
	})
}

// The server command serves a client, and with -1 ends after it.
func TestIperfServerEndsAfterOneTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := new(linkFlags).openWire(terminal{io.Discard, io.Discard}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		defer n.Close()
		for _, c := range []struct {
			flags iperfFlags
			where string
		}{
			{iperfFlags{port: 5201}, "192.0.2.2 and 2001:db8::2"},
			{iperfFlags{port: 5202, four: true}, "192.0.2.2"},
			{iperfFlags{port: 5203, six: true}, "2001:db8::2"},
		} {
			c.flags.oneOff = true
			var out safeBuffer
			done := make(chan error, 1)
			go func() { done <- n.serveIperf(t.Context(), terminal{&out, io.Discard}, &c.flags) }()
			synctest.Wait()
			client := iperfFlags{client: "192.0.2.2", port: c.flags.port, json: true}
			if c.flags.six {
				client.client = "2001:db8::2"
			}
			client.params.Bytes = 100_000
			require.NoError(t, client.newClient(n.peer, terminal{io.Discard, io.Discard}).Run(t.Context()))
			require.NoError(t, <-done)
			require.Contains(t, out.String(), " of "+c.where+" (Ctrl-C ends)\nAccepted connection from ")
			require.Contains(t, out.String(), " 97.7 KBytes ") // 100,000 bytes
		}
	})
}
