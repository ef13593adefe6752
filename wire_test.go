package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const goalStateSample = `<?xml version="1.0" encoding="utf-8"?><GoalState xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><Version>2012-11-30</Version><Incarnation>7</Incarnation>` +
	`<Machine><ExpectedState>Started</ExpectedState></Machine><Container><ContainerId> c-1 </ContainerId><RoleInstanceList><RoleInstance><InstanceId>i-1._h</InstanceId><State>Started</State><Configuration>` +
	`<Certificates>http://168.63.129.16:80/machine/x/i%2D1?comp=certificates&amp;incarnation=7</Certificates></Configuration></RoleInstance><RoleInstance><InstanceId>i-2</InstanceId></RoleInstance></RoleInstanceList></Container></GoalState>`

func TestParseGoalState(t *testing.T) {
	gs, err := parseGoalState([]byte("\xef\xbb\xbf" + goalStateSample))
	if err != nil || gs.Incarnation != "7" || gs.ContainerID != "c-1" || gs.InstanceID != "i-1._h" || gs.CertificatesURL != "http://168.63.129.16:80/machine/x/i%2D1?comp=certificates&incarnation=7" {
		t.Errorf("%+v, %v", gs, err)
	}
	for name, doc := range map[string]string{
		"no container": strings.ReplaceAll(goalStateSample, "ContainerId", "X"), "empty incarnation": strings.Replace(goalStateSample, ">7<", "><", 1),
		"another root": "<Health/>", "cut off": goalStateSample[:400], "doctype": "<!DOCTYPE x>" + goalStateSample, "empty": "",
		"id too long": strings.Replace(goalStateSample, "i-1._h", strings.Repeat("i", 300), 1),
	} {
		if _, err := parseGoalState([]byte(doc)); err == nil || errors.Is(err, errNoRole) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseGoalState([]byte(strings.ReplaceAll(goalStateSample, "RoleInstance>", "Nothing>"))); !errors.Is(err, errNoRole) {
		t.Errorf("no role instance: %v", err)
	}
}

func FuzzGoalState(f *testing.F) {
	f.Add([]byte(goalStateSample))
	f.Fuzz(func(t *testing.T, doc []byte) {
		gs, err := parseGoalState(doc)
		if err == nil && (gs.ContainerID == "" || gs.InstanceID == "" || gs.Incarnation == "") {
			t.Errorf("accepted %+v", gs)
		}
	})
}

// fakeWire is a wire server whose answers are scripted: each request takes the
// next one; the last stays.
type fakeWire struct {
	mu       sync.Mutex
	script   []func(http.ResponseWriter, *http.Request)
	requests []string
	bodies   []string
}

func (f *fakeWire) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	f.requests = append(f.requests, r.Method+" "+r.RequestURI)
	f.bodies = append(f.bodies, string(body))
	next := f.script[0]
	if len(f.script) > 1 {
		f.script = f.script[1:]
	}
	next(w, r)
}

func status(code int, header ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func text(s string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, s) }
}

func goodWire(w http.ResponseWriter, r *http.Request) {
	if r.Method == "GET" {
		io.WriteString(w, goalStateSample)
	}
}

func startWire(t *testing.T, health string, script ...func(http.ResponseWriter, *http.Request)) (*wireServer, *fakeWire) {
	t.Helper()
	f := &fakeWire{script: script}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	w, err := newWireServer(s.Listener.Addr().String(), health, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.client.close() })
	return w, f
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestReportReady(t *testing.T) {
	w, f := startWire(t, "xml", goodWire)
	gs, err := w.goalState(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.report(within(t, 5*time.Second), gs, health{State: "Ready"}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.requests); got != "[GET /machine/?comp=goalstate POST /machine?comp=health]" {
		t.Errorf("requests %s", got)
	}
}

func TestReportRetries(t *testing.T) {
	for name, c := range map[string]struct {
		script []func(http.ResponseWriter, *http.Request)
		want   string
	}{
		"gone":            {[]func(http.ResponseWriter, *http.Request){goodWire, status(410), goodWire}, "GET POST GET POST"},
		"invalid ids":     {[]func(http.ResponseWriter, *http.Request){goodWire, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "InvalidContainerConfiguration", 400) }, goodWire}, "GET POST GET POST"},
		"plain 400 once":  {[]func(http.ResponseWriter, *http.Request){goodWire, status(400), goodWire}, "GET POST GET POST"},
		"503":             {[]func(http.ResponseWriter, *http.Request){goodWire, status(503), goodWire}, "GET POST POST"},
		"429, retry date": {[]func(http.ResponseWriter, *http.Request){goodWire, status(429, "Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"), goodWire}, "GET POST POST"},
		"garbage":         {[]func(http.ResponseWriter, *http.Request){text("<GoalState><Incarnation>"), goodWire}, "GET GET POST"},
		"no role":         {[]func(http.ResponseWriter, *http.Request){text("<GoalState><Incarnation>1</Incarnation><Container><ContainerId>c</ContainerId></Container></GoalState>"), goodWire}, "GET GET POST"},
		"redirect":        {[]func(http.ResponseWriter, *http.Request){goodWire, status(302, "Location", "http://127.0.0.1/")}, "GET POST"},
	} {
		w, f := startWire(t, "xml", c.script...)
		err := w.report(within(t, 5*time.Second), nil, health{State: "Ready"})
		if (err != nil) != (name == "redirect") {
			t.Errorf("%s: %v", name, err)
		}
		var methods []string
		for _, r := range f.requests {
			methods = append(methods, strings.Fields(r)[0])
		}
		if got := strings.Join(methods, " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestReportEndsAtTheDeadline(t *testing.T) {
	w, f := startWire(t, "xml", status(500))
	err := w.report(within(t, 700*time.Millisecond), nil, health{State: "Ready"})
	if statusOf(err) != 500 || !strings.Contains(err.Error(), "tries") {
		t.Errorf("error %v", err)
	}
	if n := len(f.requests); n < 2 || n > 8 {
		t.Errorf("%d tries", n)
	}
	w, f = startWire(t, "xml", goodWire, status(410))
	if err := w.report(within(t, 400*time.Millisecond), nil, health{State: "Ready"}); statusOf(err) != 410 {
		t.Errorf("always gone: %v", err)
	}
	if n := len(f.requests); n > 40 {
		t.Errorf("always gone: %d requests", n)
	}
}

func TestReportJSON(t *testing.T) {
	w, f := startWire(t, "json", status(201))
	if err := w.report(within(t, 5*time.Second), nil, health{State: "NotReady", SubStatus: "ProvisioningFailed", Description: "a\"b"}); err != nil {
		t.Fatal(err)
	}
	if f.requests[0] != "POST /provisioning/health" || f.bodies[0] != `{"state":"NotReady","details":{"subStatus":"ProvisioningFailed","description":"a\"b"}}` {
		t.Errorf("%v %v", f.requests, f.bodies)
	}
	w, f = startWire(t, "json", status(404), goodWire)
	if err := w.report(within(t, 5*time.Second), nil, health{State: "Ready"}); err != nil || len(f.requests) != 3 {
		t.Errorf("fallback: %v %v", f.requests, err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "999999": time.Minute, "-1": 0, "x": 0, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0, "Fri, 02 Foo 2026 03:04:00 GMT": 0} {
		if got := parseRetryAfter(in, now); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Thu, 29 Feb 2024 23:59:59 GMT"} {
		want, _ := http.ParseTime(s)
		if got, ok := parseHTTPDate(s); !ok || !got.Equal(want) {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
}

func TestBackoff(t *testing.T) {
	for range 200 {
		var b backoff
		if d := b.next(); d < 100*time.Millisecond || d > 300*time.Millisecond {
			t.Fatalf("the first retry comes after %v", d)
		}
		for range 20 {
			if d := b.next(); d > longestPause || d <= 0 {
				t.Fatalf("a pause of %v", d)
			}
		}
	}
}

func TestHealthXML(t *testing.T) {
	gs := &goalState{Incarnation: "1", ContainerID: `c<&">`, InstanceID: "i"}
	for name, description := range map[string]string{
		"plain": "step media: no disc", "escapes": strings.Repeat("<&>\"", 3000), "umlauts": strings.Repeat("ü", 5000), "controls": "a\x00b\x1fc\x7fd", "broken": "a\xff\xfeb", "wide": strings.Repeat("😀&", 2000),
	} {
		doc := healthXML(gs, health{"NotReady", "ProvisioningFailed", description})
		var h struct {
			Container string `xml:"Container>ContainerId"`
			State     string `xml:"Container>RoleInstanceList>Role>Health>State"`
			Sub       string `xml:"Container>RoleInstanceList>Role>Health>Details>SubStatus"`
			Text      string `xml:"Container>RoleInstanceList>Role>Health>Details>Description"`
		}
		if err := xml.Unmarshal(doc, &h); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, rest, _ := strings.Cut(string(doc), "<Description>")
		raw, _, _ := strings.Cut(rest, "</Description>")
		if h.Container != gs.ContainerID || h.State != "NotReady" || h.Sub != "ProvisioningFailed" || len(raw) > 4096 || h.Text == "" || !utf8.ValidString(h.Text) {
			t.Errorf("%s: %+v, %d bytes", name, h, len(raw))
		}
		if len(description) > 5000 && len(raw) < 4000 {
			t.Errorf("%s: cut to %d bytes", name, len(raw))
		}
	}
	if doc := string(healthXML(gs, health{State: "Ready"})); strings.Contains(doc, "Details") || strings.Contains(doc, "Description") {
		t.Errorf("ready: %s", doc)
	}
}

func TestReportText(t *testing.T) {
	r := &report{Result: "error", Reason: "media: no 'disc' | or so\nfor long", Agent: "azprov/1", VMID: "id", Time: time.Unix(0, 0), Step: "media", Path: "/dev/sr0", Errno: unix.ENOMEDIUM,
		Warnings: []warning{{"disk", strings.Repeat("w", 3000)}}}
	want := "result=error|'reason=media: no ''disc'' | or so for long'|agent=azprov/1|pps_type=None|vm_id=id|timestamp=1970-01-01T00:00:00.000000+00:00|step=media|path=/dev/sr0|errno=123 ENOMEDIUM|documentation_url=" + docURL
	count := func(s string) int { return len(s) }
	if got := r.text(kvpMaxValue, count); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r.Reason = strings.Repeat("&", 10000)
	for limit, measure := range map[int]func(string) int{kvpMaxValue: count, healthTextLimit: escapedLen} {
		if got := r.text(limit, measure); measure(got) > limit || !strings.Contains(got, "vm_id=id") || !strings.Contains(got, "errno=123") {
			t.Errorf("limit %d: %s", limit, got)
		}
	}
}

func TestWireServerAddress(t *testing.T) {
	for _, bad := range []string{"", "host", "::1", "1.2.3", "[::1]:80", "1.2.3.4:99999"} {
		if _, err := newWireServer(bad, "xml", nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
