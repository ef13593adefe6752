package sim

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"
)

func TestTimeline(t *testing.T) {
	status := `{"version":"1","started":"2026-11-24T08:00:00Z","ready_ms":21.5,"took_ms":23,"steps":[
		{"name":"media","outcome":"ok","start_ms":0.1,"end_ms":4,"text":"<dvd> & more"},
		{"name":"disk","outcome":"warning","start_ms":0.2,"end_ms":9,"text":""}]}`
	var b bytes.Buffer
	start := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	events := []Event{{Time: start.Add(-time.Second), Service: "dhcp", Type: "RELEASE"}, {Time: start, Service: "sandbox", Type: "start"},
		{Time: start.Add(12 * time.Millisecond), Service: "dhcp", Type: "DISCOVER"}, {Time: start.Add(time.Second), Service: "dns", Type: "A"}}
	if err := Timeline(&b, []byte(status), events); err != nil {
		t.Fatal(err)
	}
	var bars, dots int
	for d := xml.NewDecoder(&b); ; {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		if e, isStart := tok.(xml.StartElement); isStart {
			switch e.Name.Local {
			case "rect":
				bars++
			case "circle":
				dots++
			}
		}
	}
	if bars != 3 || dots != 1 {
		t.Errorf("%d rectangles, %d marks", bars, dots)
	}
	if err := Timeline(io.Discard, []byte("{}"), nil); err == nil || !strings.Contains(err.Error(), "no run") {
		t.Errorf("empty status: %v", err)
	}
}
