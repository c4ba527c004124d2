package inspect

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of the parameters.
const (
	maxRawQuery = 4096 // bytes
	minInterval = 20 * time.Millisecond
	maxInterval = time.Minute
	maxOffset   = 1 << 30
)

// params are the parameters of a request, checked.
type params struct {
	conns    connQuery
	id       string
	topics   []string
	interval time.Duration // 0: the default of the topic
}

// parseParams checks all parameters of a request. A parameter that no request has is an error, so that a typing
// mistake is not a silent one.
func parseParams(r *http.Request) (*params, error) {
	if len(r.URL.RawQuery) > maxRawQuery {
		return nil, badRequest("the query is longer than 4096 bytes")
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query is malformed: percent-encode its values")
	}
	p := &params{conns: connQuery{sort: "id", limit: defaultPage}}
	if _, name := splitPath(r.URL.Path); name == "sockets" {
		p.conns.limit = maxPage
	}
	for key, values := range q {
		if len(values) != 1 {
			return nil, badRequest("the parameter " + quote(key) + " is there more than once")
		}
		if err := p.set(key, values[0]); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// set sets one parameter.
func (p *params) set(key, v string) (err error) {
	switch key {
	case "sort":
		if !isSortKey(v) {
			return badRequest("sort has to be one of " + sortKeys())
		}
		p.conns.sort = v
	case "desc":
		switch v {
		case "", "0", "false":
		case "1", "true":
			p.conns.desc = true
		default:
			return badRequest("desc has to be 0 or 1")
		}
	case "q":
		if len(v) > maxQuery {
			return badRequest("q has to have at most 200 bytes")
		}
		p.conns.text = strings.ToLower(strings.TrimSpace(v))
	case "state":
		if len(v) > maxQuery {
			return badRequest("state has to be a state of TCP, such as ESTABLISHED")
		}
		p.conns.state = v
	case "limit":
		p.conns.limit, err = number(key, v, 1, maxPage)
	case "offset":
		p.conns.offset, err = number(key, v, 0, maxOffset)
	case "id":
		if _, err := parseID(v); err != nil {
			return badRequest(err.Error())
		}
		p.id = v
	case "topics":
		return p.setTopics(v)
	case "interval_ms":
		var ms int
		ms, err = number(key, v, int(minInterval/time.Millisecond), int(maxInterval/time.Millisecond))
		p.interval = time.Duration(ms) * time.Millisecond
	default:
		return badRequest("there is no parameter " + quote(key))
	}
	return err
}

// streamed are the topics that are streamed only.
var streamed = []string{"events", "dropped", "segments"}

// setTopics sets the topics of a stream.
func (p *params) setTopics(v string) error {
	for _, topic := range strings.Split(v, ",") {
		if topic == "all" || !slices.Contains(streamed, topic) && !slices.Contains(topics, topic) {
			return badRequest("topics has to be a list such as overview,conns of: " + strings.Join(streamed, ", ") + ", " + strings.Join(topics[:len(topics)-1], ", "))
		}
		if slices.Contains(p.topics, topic) {
			return badRequest("topics has " + topic + " more than once")
		}
		p.topics = append(p.topics, topic)
	}
	return nil
}

// number parses a number from low to high.
func number(key, v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return 0, badRequest(key + " has to be a number from " + strconv.Itoa(low) + " to " + strconv.Itoa(high))
	}
	return n, nil
}

// quote quotes a part of a request for an error, and cuts it.
func quote(s string) string {
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return strconv.QuoteToASCII(s)
}
