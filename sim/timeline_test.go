package sim

import (
	"bytes"
	"encoding/xml"
	"io"
	"strings"
	"testing"
)

func TestTimeline(t *testing.T) {
	status := `{"version":"1","ready_ms":21.5,"took_ms":23,"steps":[
		{"name":"media","outcome":"ok","start_ms":0.1,"end_ms":4,"text":"<dvd> & more"},
		{"name":"disk","outcome":"warning","start_ms":0.2,"end_ms":9,"text":""}]}`
	var b bytes.Buffer
	if err := Timeline(&b, []byte(status), []Mark{{12, "DISCOVER"}}); err != nil {
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
