// Package prom is a Prometheus collector of the figures of a usernet host. Their names are in the README of
// github.com/usernet/usernet/metrics.
package prom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/metrics"
)

// collector implements prometheus.Collector.
type collector struct {
	host  *usernet.Host
	descs map[*metrics.Metric]*prometheus.Desc
}

// NewCollector returns a collector of a host's figures. labels are labels with fixed values; with several hosts in one
// registry, each host needs its own, for example {"host": "edge"}. labels may be nil.
//
//	registry.MustRegister(prom.NewCollector(host, nil))
func NewCollector(h *usernet.Host, labels prometheus.Labels) prometheus.Collector {
	c := &collector{host: h, descs: make(map[*metrics.Metric]*prometheus.Desc)}
	for _, m := range metrics.Metrics() {
		var keys []string
		if m.Label != "" {
			keys = []string{m.Label}
		}
		c.descs[m] = prometheus.NewDesc(m.Name(), m.Help+".", keys, labels)
	}
	return c
}

// Describe sends the description of each metric.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics.Metrics() {
		ch <- c.descs[m]
	}
}

// Collect reads the host and sends the figures.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range metrics.Read(c.host) {
		kind := prometheus.CounterValue
		if s.Metric.Kind == metrics.Gauge {
			kind = prometheus.GaugeValue
		}
		var values []string
		if s.Metric.Label != "" {
			values = []string{s.Label}
		}
		ch <- prometheus.MustNewConstMetric(c.descs[s.Metric], kind, s.Value, values...)
	}
}
