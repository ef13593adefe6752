package main

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"
)

// defaultWireServer is the wire server's address in every region and cloud.
const defaultWireServer = "168.63.129.16"

// The retry schedule of everything that is asked of the platform: exponential
// backoff with full jitter.
const (
	firstPause     = 200 * time.Millisecond // the first retry comes after 100-300 ms
	longestPause   = 15 * time.Second
	maxRetryAfter  = 60 * time.Second
	noRolePause    = 500 * time.Millisecond
	maxGoneInARow  = 5           // 410 answers to fresh ids
	goalStateFresh = time.Minute // older ids are fetched again before a report
)

// wireServer talks to the platform's wire server. It is safe for use by several
// goroutines, which take turns.
type wireServer struct {
	client   *httpClient
	endpoint string
	json     bool // the JSON health endpoint is to be tried first
	log      func(string)
	mu       sync.Mutex
}

// newWireServer takes an IPv4 address with or without port. Health is "xml" or
// "json". Log is told once why a request is being retried.
func newWireServer(endpoint, health string, log func(string)) (*wireServer, error) {
	addr, err := parseAddrPort(endpoint)
	if err != nil {
		ip, err := parseAddr(endpoint)
		if err != nil || !ip.Is4() {
			return nil, failureHint("use wire server", oneLine(endpoint, 60), errors.New("not an IPv4 address"), "set wireserver to an address")
		}
		addr = ipAddrPort{ip, 80}
	}
	if !addr.Addr.Is4() {
		return nil, failure("use wire server", endpoint, errors.New("not an IPv4 address"))
	}
	return &wireServer{client: newHTTPClient(addr), endpoint: endpoint, json: health == "json", log: log}, nil
}

// statusError is an answer that is no success.
type statusError struct {
	status     int
	retryAfter time.Duration // 0 if the server asks for none
	invalid    bool          // InvalidContainerConfiguration: the ids are out of date
}

func (e *statusError) Error() string { return "http status " + strconv.Itoa(e.status) }

// statusOf returns the HTTP status that an error came from, or 0.
func statusOf(err error) int {
	var se *statusError
	if errors.As(err, &se) {
		return se.status
	}
	return 0
}

// transient says whether the same request may do better later.
func transient(err error) bool {
	switch status := statusOf(err); status {
	case 0, 205, 206, 403, 404, 408, 410, 429, 500, 501, 502, 503, 504, 507:
		return true
	default:
		return false
	}
}

// send does one request; an answer outside of 2xx is a *statusError.
func (w *wireServer) send(ctx context.Context, req *httpRequest) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resp, err := w.client.do(ctx, req)
	if err != nil {
		return nil, err
	}
	body := bytes.TrimPrefix(resp.body, []byte("\xef\xbb\xbf"))
	if resp.status >= 200 && resp.status < 300 && resp.status != 205 && resp.status != 206 {
		return body, nil
	}
	se := &statusError{status: resp.status, retryAfter: parseRetryAfter(resp.get("Retry-After"), time.Now()),
		invalid: resp.status == 400 && bytes.Contains(body, []byte("InvalidContainerConfiguration"))}
	return nil, failure(req.method, "http://"+w.endpoint+req.target, se)
}

// parseRetryAfter reads seconds or an HTTP date (RFC 9110, 10.2.3), capped at a
// minute; 0 for none, the past, or garbage.
func parseRetryAfter(s string, now time.Time) time.Duration {
	d := time.Duration(0)
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, ok := parseHTTPDate(s); ok {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// parseHTTPDate reads the form that RFC 9110 asks for, "Sun, 06 Nov 1994
// 08:49:37 GMT". Package time's parser would bring its time zones with it.
func parseHTTPDate(s string) (time.Time, bool) {
	const months = "JanFebMarAprMayJunJulAugSepOctNovDec"
	if len(s) != 29 || s[3:5] != ", " || s[25:] != " GMT" || s[7] != ' ' || s[11] != ' ' || s[16] != ' ' || s[19] != ':' || s[22] != ':' {
		return time.Time{}, false
	}
	month := strings.Index(months, s[8:11])
	var n [5]int
	for i, part := range []string{s[5:7], s[12:16], s[17:19], s[20:22], s[23:25]} {
		v, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return time.Time{}, false
		}
		n[i] = int(v)
	}
	if month < 0 || month%3 != 0 {
		return time.Time{}, false
	}
	return time.Date(n[1], time.Month(month/3+1), n[0], n[2], n[3], n[4], 0, time.UTC), true
}

// backoff is the pause before the next of several tries.
type backoff struct{ limit time.Duration }

func (b *backoff) next() time.Duration {
	if b.limit == 0 {
		b.limit = firstPause
		return firstPause/2 + rand.N(firstPause)
	}
	b.limit = min(2*b.limit, longestPause)
	return max(firstPause/2, rand.N(b.limit))
}

// retry calls f until it succeeds, fails for good, or ctx is done. The last
// error is kept, with the number of tries.
func (w *wireServer) retry(ctx context.Context, what string, f func() error) error {
	var pause backoff
	said := ""
	for tries := 1; ; tries++ {
		err := f()
		if err == nil {
			return nil
		}
		if !transient(err) && !errors.Is(err, errNoRole) {
			return err
		}
		wait := pause.next()
		var se *statusError
		if errors.As(err, &se) && se.retryAfter > 0 && (se.status == 429 || se.status == 503) {
			wait = se.retryAfter
		} else if errors.Is(err, errNoRole) {
			wait = noRolePause
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			w.log(what + ": " + text + "; trying again")
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			continue
		case <-ctx.Done():
			timer.Stop()
		}
		return failureHint(what, sprintf("from %s, %d tries", w.endpoint, tries), err, "no success before the deadline")
	}
}

var machineHeader = []httpHeader{{"x-ms-version", "2012-11-30"}, {"x-ms-agent-name", "WALinuxAgent"}}

// goalState fetches the goal state, again and again until it names a role
// instance or ctx is done.
func (w *wireServer) goalState(ctx context.Context) (gs *goalState, err error) {
	err = w.retry(ctx, "fetch goal state", func() error {
		gs, err = w.fetchGoalState(ctx)
		return err
	})
	return gs, err
}

func (w *wireServer) fetchGoalState(ctx context.Context) (*goalState, error) {
	body, err := w.send(ctx, &httpRequest{method: "GET", target: "/machine/?comp=goalstate", header: machineHeader})
	if err != nil {
		return nil, err
	}
	gs, err := parseGoalState(body)
	if err != nil {
		return nil, err
	}
	gs.Fetched = time.Now()
	return gs, nil
}

// health is a report: "Ready", or "NotReady" with SubStatus "Provisioning" or
// "ProvisioningFailed" and a description.
type health struct{ State, SubStatus, Description string }

// report tells the wire server and returns when it has acknowledged (any 2xx).
// The goal state may be nil; it is fetched again when it is old or the server
// no longer knows its ids.
func (w *wireServer) report(ctx context.Context, gs *goalState, h health) error {
	gone := 0
	err := w.retry(ctx, "report "+h.State, func() error {
		if w.json {
			err := w.reportJSON(ctx, h)
			switch statusOf(err) {
			case 400, 404, 405, 501:
				w.log("the JSON health endpoint is not there: " + err.Error() + "; using XML")
				w.json = false
			default:
				return err
			}
		}
		for {
			if gs == nil || time.Since(gs.Fetched) > goalStateFresh {
				fresh, err := w.fetchGoalState(ctx)
				if err != nil {
					return err
				}
				gs = fresh
			}
			_, err := w.send(ctx, &httpRequest{method: "POST", target: "/machine?comp=health", body: healthXML(gs, h),
				header: append([]httpHeader{{"Content-Type", "text/xml; charset=utf-8"}}, machineHeader...)})
			var se *statusError
			if !errors.As(err, &se) {
				return err
			}
			if se.status != 410 && se.status != 400 {
				return err
			}
			// The ids are out of date. A plain 400 may have other reasons: once.
			gs = nil
			if gone++; gone > maxGoneInARow || se.status == 400 && !se.invalid && gone > 1 {
				gone = 0
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	return nil
}

func (w *wireServer) reportJSON(ctx context.Context, h health) error {
	o := object{{"state", h.State}}
	if h.State != "Ready" {
		o = object{{"state", h.State}, {"details", object{{"subStatus", h.SubStatus}, {"description", cutEscaped(h.Description, healthTextLimit)}}}}
	}
	_, err := w.send(ctx, &httpRequest{method: "POST", target: "/provisioning/health", body: appendJSON(nil, o),
		header: []httpHeader{{"Content-Type", "application/json"}, {"x-ms-guest-agent-name", "azprov/" + version}}})
	return err
}

// healthTextLimit is the largest description the server takes, in bytes after
// escaping.
const healthTextLimit = 4096

// healthXML is the report's document. The description is cut so that its
// escaped form fits.
func healthXML(gs *goalState, h health) []byte {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><Health xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">`)
	fprintf(&b, "<GoalStateIncarnation>%s</GoalStateIncarnation><Container><ContainerId>%s</ContainerId><RoleInstanceList><Role><InstanceId>%s</InstanceId><Health><State>%s</State>",
		escapeXML(gs.Incarnation), escapeXML(gs.ContainerID), escapeXML(gs.InstanceID), escapeXML(h.State))
	if text := cutEscaped(h.Description, healthTextLimit); h.SubStatus != "" {
		fprintf(&b, "<Details><SubStatus>%s</SubStatus>", escapeXML(h.SubStatus))
		if text != "" {
			fprintf(&b, "<Description>%s</Description>", escapeXML(text))
		}
		b.WriteString("</Details>")
	}
	b.WriteString("</Health></Role></RoleInstanceList></Container></Health>")
	return b.Bytes()
}

// xmlEscape is the escaped form of a character; control characters, most of
// which XML 1.0 can't hold, become blanks.
func xmlEscape(r rune) string {
	switch {
	case r == '&':
		return "&amp;"
	case r == '<':
		return "&lt;"
	case r == '>':
		return "&gt;"
	case r == '"':
		return "&quot;"
	case r < ' ', r >= 0x7f && r < 0xa0, r == 0xfffe, r == 0xffff:
		return " "
	}
	return string(r)
}

func escapeXML(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "?") {
		b.WriteString(xmlEscape(r))
	}
	return b.String()
}

// escapedLen is the length of the escaped form in bytes.
func escapedLen(s string) int { return len(escapeXML(s)) }

// cutEscaped cuts s so that its escaped form has at most max bytes.
func cutEscaped(s string, max int) string {
	n := 0
	s = strings.ToValidUTF8(s, "?")
	for i, r := range s {
		if n += len(xmlEscape(r)); n > max {
			return s[:i]
		}
	}
	return s
}
