// Package otel passes the figures of a usernet host to OpenTelemetry. Their names are in the README of
// github.com/usernet/usernet/metrics.
package otel

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/metrics"
)

// Register creates an observable instrument for each metric and registers one callback, which reads the host at each
// collection. attrs are added to each figure; with several hosts under one meter, each host needs its own. The caller
// calls Unregister of the Registration when it closes the host. An error is that of the meter.
func Register(meter metric.Meter, h *usernet.Host, attrs ...attribute.KeyValue) (metric.Registration, error) {
	instruments := make(map[*metrics.Metric]metric.Float64Observable)
	var all []metric.Observable
	for _, m := range metrics.Metrics() {
		var i metric.Float64Observable
		var err error
		if m.Kind == metrics.Counter {
			i, err = meter.Float64ObservableCounter(m.OTelName(), metric.WithDescription(m.Help+"."), metric.WithUnit(unit(m)))
		} else {
			i, err = meter.Float64ObservableGauge(m.OTelName(), metric.WithDescription(m.Help+"."), metric.WithUnit(unit(m)))
		}
		if err != nil {
			return nil, err
		}
		instruments[m] = i
		all = append(all, i)
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range metrics.Read(h) {
			with := attrs[:len(attrs):len(attrs)]
			if s.Metric.Label != "" {
				with = append(with, attribute.String(s.Metric.Label, s.Label))
			}
			o.ObserveFloat64(instruments[s.Metric], s.Value, metric.WithAttributes(with...))
		}
		return nil
	}, all...)
}

// unit returns the unit in the notation of UCUM, which OpenTelemetry uses.
func unit(m *metrics.Metric) string {
	switch m.Unit {
	case "bytes":
		return "By"
	case "seconds":
		return "s"
	}
	return "1"
}
