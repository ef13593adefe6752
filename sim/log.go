package sim

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Event is a line of the platform's log: one request, or a moment of a sandbox.
type Event struct {
	Time    time.Time `json:"time"`    // RFC 3339 with nanoseconds
	Mono    int64     `json:"mono_ns"` // CLOCK_MONOTONIC, the same in all processes of a machine
	Service string    `json:"service"` // dhcp, dns, wire, imds, sandbox
	VM      string    `json:"vm,omitempty"`
	Type    string    `json:"type,omitempty"`   // DHCP message type, "start", "exit"
	Method  string    `json:"method,omitempty"` // of HTTP
	Path    string    `json:"path,omitempty"`
	Status  int       `json:"status,omitempty"`
	Took    float64   `json:"took_ms,omitempty"`
	Name    string    `json:"name,omitempty"`    // host name in DHCP, question in DNS, what DNS knows at a health report
	FQDN    string    `json:"fqdn,omitempty"`    // of DHCP option 81
	Address string    `json:"address,omitempty"` // given or asked for
	State   string    `json:"state,omitempty"`   // of a health report
	Sub     string    `json:"substatus,omitempty"`
	Text    string    `json:"text,omitempty"`       // description of a health report, note
	Props   []string  `json:"properties,omitempty"` // role properties as NAME=VALUE
	Fault   string    `json:"fault,omitempty"`      // what was done to the request
	CPU     float64   `json:"cpu_ms,omitempty"`     // of a sandbox's command, and
	RSS     int64     `json:"rss_kb,omitempty"`     // the most memory it had
}

// Log writes events as JSON lines. It is safe for use by several goroutines.
type Log struct {
	mu sync.Mutex
	w  io.Writer
}

// NewLog writes to w; nil writes nowhere.
func NewLog(w io.Writer) *Log { return &Log{w: w} }

// Add stamps and writes an event.
func (l *Log) Add(e Event) {
	e.Time = time.Now().UTC()
	e.Mono = monotonic()
	line, err := json.Marshal(e)
	if err != nil || l.w == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.Write(append(line, '\n'))
}

func monotonic() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// ReadEvents parses a log.
func ReadEvents(r io.Reader) ([]Event, error) {
	var list []Event
	for d := json.NewDecoder(r); ; {
		var e Event
		if err := d.Decode(&e); err == io.EOF {
			return list, nil
		} else if err != nil {
			return list, err
		}
		list = append(list, e)
	}
}
