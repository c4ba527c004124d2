package metrics_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/metrics"
	"github.com/usernet/usernet/metrics/otel"
	"github.com/usernet/usernet/metrics/prom"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

var update = flag.Bool("update", false, "write the table of README.md")

// hosts returns two hosts at the ends of a link. The link loses 3 % of the frames of the first host, and a
// connection to port 80 of the second host carries 2 MiB to it.
func hosts(t *testing.T) (a, b *usernet.Host) {
	t.Helper()
	da, db := nic.Pipe(nic.PipeConfig{GSO: -1})
	lossy := nic.Impair(da, nic.ImpairConfig{Out: nic.Impairment{Latency: time.Millisecond, Loss: 0.03}, In: nic.Impairment{Latency: time.Millisecond}, Seed: 1})
	host := func(d nic.Device, addr string) *usernet.Host {
		h, err := usernet.New(usernet.Config{NIC: d, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	a, b = host(lossy, "192.0.2.1/24"), host(db, "192.0.2.2/24")
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		accepted <- c
		io.Copy(io.Discard, c)
	}()
	c, err := a.Dial("tcp", "192.0.2.2:80")
	require.NoError(t, err)
	_, err = c.Write(make([]byte, 2<<20))
	require.NoError(t, err)
	// A datagram to a closed port.
	u, err := a.Dial("udp", "192.0.2.2:9")
	require.NoError(t, err)
	_, err = u.Write([]byte("x"))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); u.Close(); (<-accepted).Close() })
	time.Sleep(10 * time.Second)
	synctest.Wait()
	return a, b
}

// key returns the name of a figure as Prometheus writes it.
func key(s metrics.Sample) string {
	if s.Metric.Label == "" {
		return s.Metric.Name()
	}
	return fmt.Sprintf("%s{%s=%q}", s.Metric.Name(), s.Metric.Label, s.Label)
}

func gather(t *testing.T, c prometheus.Collector) []*dto.MetricFamily {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	families, err := r.Gather()
	require.NoError(t, err)
	return families
}

// After a transfer with loss, Prometheus, OpenTelemetry and expvar have the same figures, which are those of the host.
//
// FEATURES O8.
func TestAllExportersHaveTheSameFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := hosts(t)
		want := make(map[string]float64)
		for _, s := range metrics.Read(a) {
			want[key(s)] = s.Value
		}
		stats := a.Stats()
		require.NotZero(t, want["usernet_tcp_retransmitted_segments_total"])
		require.EqualValues(t, stats.TCP.Events[tcp.RetransSegs], want["usernet_tcp_retransmitted_segments_total"])
		require.EqualValues(t, stats.TCP.Events[tcp.FastRetrans], want["usernet_tcp_fast_retransmissions_total"])
		require.EqualValues(t, 1, want[`usernet_tcp_connections{state="established"}`])
		require.EqualValues(t, 1, want["usernet_socket_open"])
		require.EqualValues(t, 1, want[`usernet_icmp_received_errors_total{version="4"}`])
		require.EqualValues(t, 1, want[`usernet_neighbor_entries{state="`+a.Neighbors()[0].State.String()+`"}`])
		require.Greater(t, want[`usernet_interface_transmit_bytes_total{interface="`+a.Interfaces()[1].Name+`"}`], float64(2<<20))

		got := make(map[string]float64)
		for _, f := range gather(t, prom.NewCollector(a, nil)) {
			for _, m := range f.Metric {
				k := f.GetName()
				if len(m.Label) > 0 {
					k += fmt.Sprintf("{%s=%q}", m.Label[0].GetName(), m.Label[0].GetValue())
				}
				got[k] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		require.Equal(t, want, got, "Prometheus")

		require.Equal(t, want, collectOTel(t, a), "OpenTelemetry")

		var object map[string]any
		require.NoError(t, json.Unmarshal([]byte(metrics.Var(a).String()), &object))
		clear(got)
		for name, v := range object {
			switch v := v.(type) {
			case float64:
				got[name] = v
			case map[string]any:
				m := metricNamed(name)
				for label, n := range v {
					got[fmt.Sprintf("%s{%s=%q}", name, m.Label, label)] = n.(float64)
				}
			}
		}
		require.Equal(t, want, got, "expvar")
	})
}

// collectOTel returns the figures that an OpenTelemetry reader gets, under the names of Prometheus.
func collectOTel(t *testing.T, h *usernet.Host) map[string]float64 {
	t.Helper()
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	reg, err := otel.Register(meter, h, attribute.String("host", "edge"))
	require.NoError(t, err)
	defer func() { require.NoError(t, reg.Unregister()) }()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	got := make(map[string]float64)
	for _, scope := range all.ScopeMetrics {
		for _, i := range scope.Metrics {
			var points []metricdata.DataPoint[float64]
			m := metricOfOTel(i.Name)
			require.NotNil(t, m, i.Name)
			require.Equal(t, map[string]string{"": "1", "bytes": "By", "seconds": "s"}[m.Unit], i.Unit, i.Name)
			switch d := i.Data.(type) {
			case metricdata.Sum[float64]:
				require.True(t, d.IsMonotonic && m.Kind == metrics.Counter, i.Name)
				points = d.DataPoints
			case metricdata.Gauge[float64]:
				require.Equal(t, metrics.Gauge, m.Kind, i.Name)
				points = d.DataPoints
			}
			for _, p := range points {
				host, ok := p.Attributes.Value("host")
				require.True(t, ok && host.AsString() == "edge", i.Name)
				k := m.Name()
				if m.Label != "" {
					label, _ := p.Attributes.Value(attribute.Key(m.Label))
					k = fmt.Sprintf("%s{%s=%q}", k, m.Label, label.AsString())
				}
				got[k] = p.Value
			}
		}
	}
	return got
}

// metricNamed returns the metric that has a name in Prometheus and expvar, or nil.
func metricNamed(name string) *metrics.Metric {
	for _, m := range metrics.Metrics() {
		if m.Name() == name {
			return m
		}
	}
	return nil
}

// metricOfOTel returns the metric that has a name in OpenTelemetry, or nil.
func metricOfOTel(otelName string) *metrics.Metric {
	for _, m := range metrics.Metrics() {
		if m.OTelName() == otelName {
			return m
		}
	}
	return nil
}

// promtool finds no fault in the names, kinds and help texts.
func TestPromtoolAcceptsTheFigures(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not installed: apt-get install prometheus")
		}
		t.Skip("promtool is not installed")
	}
	var text bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts(t)
		r := prometheus.NewPedanticRegistry()
		require.NoError(t, r.Register(prom.NewCollector(a, prometheus.Labels{"host": "a"})))
		require.NoError(t, r.Register(prom.NewCollector(b, prometheus.Labels{"host": "b"})), "two hosts in one registry")
		families, err := r.Gather()
		require.NoError(t, err)
		for _, f := range families {
			_, err := expfmt.MetricFamilyToText(&text, f)
			require.NoError(t, err)
		}
	})
	require.Contains(t, text.String(), `usernet_tcp_connections{host="a",state="established"} 1`)
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = &text
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

// A closed host is not up and has no connections, and its counters remain.
func TestAClosedHostHasItsCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := hosts(t)
		before := make(map[string]float64)
		for _, s := range metrics.Read(a) {
			before[key(s)] = s.Value
		}
		require.Equal(t, 1.0, before["usernet_host_up"])
		require.NoError(t, a.Close())
		after := make(map[string]float64)
		for _, s := range metrics.Read(a) {
			after[key(s)] = s.Value
		}
		require.Equal(t, 0.0, after["usernet_host_up"])
		require.Equal(t, 0.0, after[`usernet_tcp_connections{state="established"}`])
		for name, value := range before {
			if strings.Contains(name, "_total") {
				require.GreaterOrEqual(t, after[name], value, name)
			}
		}
		require.NotEmpty(t, gather(t, prom.NewCollector(a, nil)))
	})
}

// Importing the packages registers nothing.
func TestNothingIsRegistered(t *testing.T) {
	families, err := prometheus.DefaultGatherer.Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.NotContains(t, f.GetName(), "usernet")
	}
	main := `package main
import (
	"expvar"
	"fmt"
	_ "github.com/usernet/usernet/metrics"
	_ "github.com/usernet/usernet/metrics/otel"
	_ "github.com/usernet/usernet/metrics/prom"
)
func main() { expvar.Do(func(kv expvar.KeyValue) { fmt.Println(kv.Key) }) }
`
	dir := "testdata/registered"
	require.NoError(t, os.MkdirAll(dir, 0o755))
	defer os.RemoveAll("testdata")
	require.NoError(t, os.WriteFile(dir+"/main.go", []byte(main), 0o644))
	out, err := exec.Command("go", "run", "./"+dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "cmdline\nmemstats\n", string(out))
}

func TestNamesAreDistinctAndEveryEventHasOne(t *testing.T) {
	seen := make(map[string]bool)
	events := 0
	for _, m := range metrics.Metrics() {
		require.False(t, seen[m.Name()] || seen[m.OTelName()], m.Name())
		seen[m.Name()], seen[m.OTelName()] = true, true
		require.Regexp(t, `^usernet_[a-z0-9_]+[a-z0-9]$`, m.Name())
		require.NotEmpty(t, m.Help)
		require.False(t, strings.HasSuffix(m.Help, "."), m.Name())
		if m.Group == "tcp" && m.Kind == metrics.Counter {
			events++
		}
	}
	require.GreaterOrEqual(t, events, int(tcp.NumCounters))
}

// The queries of the dashboard name only metrics that exist.
func TestTheDashboardQueriesMetricsThatExist(t *testing.T) {
	b, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var dashboard any
	require.NoError(t, json.Unmarshal(b, &dashboard))
	queries := 0
	name := regexp.MustCompile(`usernet_[a-z0-9_]+`)
	// The label by which a query sums, and the metric whose label it is.
	label := regexp.MustCompile(`by \((\w+)\) \(.*?(usernet_[a-z0-9_]+)`)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			for k, x := range v {
				text, ok := x.(string)
				if !ok || k != "expr" && k != "query" {
					walk(x)
					continue
				}
				for _, n := range name.FindAllString(text, -1) {
					queries++
					require.NotNil(t, metricNamed(n), "%s in %s", n, text)
				}
				for _, m := range label.FindAllStringSubmatch(text, -1) {
					require.Equal(t, metricNamed(m[2]).Label, m[1], text)
				}
			}
		}
	}
	walk(dashboard)
	require.Greater(t, queries, 30)
}

// README.md has the table of names.
func TestTheREADMEHasAllNames(t *testing.T) {
	const begin, end = "<!-- names: go test -run README -update -->\n", "<!-- end of names -->"
	b, err := os.ReadFile("README.md")
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(b), begin)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)
	var names strings.Builder
	names.WriteString("\n| Prometheus, expvar | OpenTelemetry | kind | label | |\n|---|---|---|---|---|\n")
	for _, m := range metrics.Metrics() {
		fmt.Fprintf(&names, "| `%s` | `%s` | %v | %s | %s |\n", m.Name(), m.OTelName(), m.Kind, m.Label, m.Help)
	}
	names.WriteString("\n")
	want := head + begin + names.String() + end + tail
	if *update {
		require.NoError(t, os.WriteFile("README.md", []byte(want), 0o644))
		return
	}
	require.Equal(t, want, string(b), "run: go test -run README -update")
}
