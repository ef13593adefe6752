package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is a rule that spoils requests. The file of faults is a JSON list of them.
//
//	service     dhcp, dhcp6, dns, wire, imds or media
//	match       part of the request's path, or the DHCP message type that is answered
//	            (DISCOVER, REQUEST); empty matches all
//	after       how many matching requests pass first
//	count       how many are spoiled then; 0: all of them
//	action      of wire and imds: reset (before an answer), refuse (for seconds from the
//	            start nothing listens), hang, drip (a byte at a time, bytesPerSecond),
//	            status (with retryAfter), garbage, truncate (half a body), oversize (a body
//	            of 1 GB), redirect;
//	            of dhcp: drop, nak, garbage, wrong-xid, wrong-mac, bad-checksum;
//	            of dns and dhcp6: drop; of media: late (for seconds), missing
type Fault struct {
	Service        string  `json:"service"`
	Match          string  `json:"match"`
	After          int     `json:"after"`
	Count          int     `json:"count"`
	Action         string  `json:"action"`
	Status         int     `json:"status"`
	RetryAfter     string  `json:"retryAfter"`
	BytesPerSecond int     `json:"bytesPerSecond"`
	Seconds        float64 `json:"seconds"`

	seen int
}

var faultActions = map[string][]string{
	"wire": {"reset", "refuse", "hang", "drip", "status", "garbage", "truncate", "oversize", "redirect"},
	"imds": {"reset", "refuse", "hang", "drip", "status", "garbage", "truncate", "oversize", "redirect"},
	"dhcp": {"drop", "nak", "garbage", "wrong-xid", "wrong-mac", "bad-checksum"},
	"dns":  {"drop"}, "dhcp6": {"drop"}, "media": {"late", "missing"},
}

// Faults is a set of rules with their counters.
type Faults struct {
	mu    sync.Mutex
	rules []*Fault
}

// LoadFaults reads a file of rules; no name means no faults.
func LoadFaults(file string) (*Faults, error) {
	f := &Faults{}
	if file == "" {
		return f, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f.rules); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i, r := range f.rules {
		if !slices.Contains(faultActions[r.Service], r.Action) {
			return nil, fmt.Errorf("%s: rule %d: no action %q of service %q", file, i+1, r.Action, r.Service)
		}
	}
	return f, nil
}

// hit counts a request and returns the rule that spoils it, or nil.
func (f *Faults) hit(service, what string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if r.Service != service || !strings.Contains(what, r.Match) || r.Action == "refuse" || service == "media" {
			continue
		}
		r.seen++
		if r.seen > r.After && (r.Count == 0 || r.seen <= r.After+r.Count) {
			return r
		}
	}
	return nil
}

// Refused is how long nothing listens on a service's port.
func (f *Faults) Refused(service string) time.Duration {
	for _, r := range f.rules {
		if r.Service == service && r.Action == "refuse" {
			return time.Duration(r.Seconds * float64(time.Second))
		}
	}
	return 0
}

// Media says how late the provisioning medium comes, and whether it comes at all.
func (f *Faults) Media() (late time.Duration, missing bool) {
	for _, r := range f.rules {
		if r.Service == "media" {
			late, missing = time.Duration(r.Seconds*float64(time.Second)), missing || r.Action == "missing"
		}
	}
	return late, missing
}
