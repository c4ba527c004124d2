package metrics_test

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/metrics"
	"github.com/usernet/usernet/metrics/prom"
)

// A program publishes the figures of its host for Prometheus.
func ExampleRead_prometheus() {
	host, err := usernet.New(usernet.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prom.NewCollector(host, prometheus.Labels{"host": "edge"}))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}

func ExampleVar() {
	host, err := usernet.New(usernet.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	v := metrics.Var(host) // expvar.Publish("usernet", v)
	var figures map[string]any
	if err := json.Unmarshal([]byte(v.String()), &figures); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(figures["usernet_host_up"], figures["usernet_tcp_listeners"])
	// Output: 1 0
}
