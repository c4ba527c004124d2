// Package metrics reads the figures of a usernet host under stable names. [Read] returns them, and [Var] publishes them
// by expvar. The packages metrics/prom and metrics/otel, which need libraries, pass the same figures to Prometheus and
// to OpenTelemetry. README.md lists the names. Importing these packages registers nothing.
//
// A reading holds the lock of one connection or socket at a time, for a moment. Its cost is proportional to the number
// of connections, because Read counts them by state.
package metrics

import (
	"encoding/json"
	"expvar"
	"maps"
	"slices"

	"github.com/usernet/usernet"
)

// A Kind says how the value of a metric changes.
type Kind uint8

const (
	Counter Kind = iota // never decreases
	Gauge               // may decrease
)

// String returns "counter" or "gauge".
func (k Kind) String() string { return [...]string{"counter", "gauge"}[k] }

// A Metric describes one name.
type Metric struct {
	Group string // the layer, for example "tcp"
	Base  string // the rest of the name, for example "retransmitted_segments"
	Unit  string // "bytes", "seconds", or empty for a number of things
	Kind  Kind
	Label string // the key of the only label; empty if the metric has one value
	Help  string // one sentence without the full stop
}

// Name returns the name in the form of Prometheus, for example "usernet_tcp_retransmitted_segments_total".
func (m *Metric) Name() string {
	name := "usernet_" + m.Group + "_" + m.Base
	if m.Unit != "" {
		name += "_" + m.Unit
	}
	if m.Kind == Counter {
		name += "_total"
	}
	return name
}

// OTelName returns the name in the form of OpenTelemetry, for example "usernet.tcp.retransmitted_segments". Its
// unit is not a part of it.
func (m *Metric) OTelName() string { return "usernet." + m.Group + "." + m.Base }

// A Sample is a value of a metric.
type Sample struct {
	Metric *Metric
	Label  string // the value of the label; empty if the metric has none
	Value  float64
}

// Metrics returns all metrics in a fixed order. The caller must not modify them.
func Metrics() []*Metric {
	list := make([]*Metric, len(table))
	for i := range table {
		list[i] = &table[i].Metric
	}
	return list
}

// Read reads all figures of a host, in the order of Metrics. The host may be closed: its counters remain, and it
// has no interfaces or connections any more.
func Read(h *usernet.Host) []Sample {
	s := readHost(h)
	var all []Sample
	for i := range table {
		row := &table[i]
		row.read(s, func(label string, v float64) {
			all = append(all, Sample{Metric: &row.Metric, Label: label, Value: v})
		})
	}
	return all
}

// Var returns a variable whose value is a JSON object with the figures of the host at the time of the call. A metric
// with a label is an object in it, whose keys are the values of the label. The caller publishes it:
//
//	expvar.Publish("usernet", metrics.Var(host))
func Var(h *usernet.Host) expvar.Var { return variable{h} }

type variable struct{ h *usernet.Host }

func (v variable) String() string {
	object := make(map[string]any)
	for _, s := range Read(v.h) {
		name := s.Metric.Name()
		if s.Metric.Label == "" {
			object[name] = s.Value
			continue
		}
		values, _ := object[name].(map[string]float64)
		if values == nil {
			values = make(map[string]float64)
			object[name] = values
		}
		values[s.Label] = s.Value
	}
	b, err := json.Marshal(object)
	if err != nil {
		panic("metrics: a figure is not a number: " + err.Error())
	}
	return string(b)
}

// byKey calls put for the entries of a map in the order of their keys.
func byKey[N int | uint64](m map[string]N, put func(string, float64)) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		put(k, float64(m[k]))
	}
}
