package sim

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math"
	"strings"
	"time"
)

// mark is a moment on the platform's side, in milliseconds after the
// provisioner was started.
type mark struct {
	at    float64
	label string
}

// runStatus is the part of azprov's status.json that is drawn.
type runStatus struct {
	Version string       `json:"version"`
	Started time.Time    `json:"started"`
	ReadyMS float64      `json:"ready_ms"`
	TookMS  float64      `json:"took_ms"`
	Steps   []stepStatus `json:"steps"`
}

// stepStatus is a step of it.
type stepStatus struct {
	Name    string  `json:"name"`
	Outcome string  `json:"outcome"`
	StartMS float64 `json:"start_ms"`
	EndMS   float64 `json:"end_ms"`
	Text    string  `json:"text"`
}

// The picture's geometry in pixels.
const (
	timelineLeft  = 104
	timelineWidth = 560
	timelineText  = 440
	timelineRow   = 24
	timelineTop   = 60
)

var outcomeColor = map[string]string{"ok": "#2f6f9f", "warning": "#c98a1b", "failed": "#b3362f", "skipped": "#b8bec4"}

// Timeline draws the steps of a run over time as SVG: a bar a step from
// azprov's status.json, and below them what the platform saw meanwhile.
func Timeline(w io.Writer, statusJSON []byte, events []Event) error {
	var s runStatus
	if err := json.Unmarshal(statusJSON, &s); err != nil {
		return fmt.Errorf("parse status.json: %w", err)
	}
	marks := marksBetween(s.Started, s.Started.Add(time.Duration(s.TookMS*1e6)), events)
	end := s.TookMS
	for _, step := range s.Steps {
		end = max(end, step.EndMS)
	}
	for _, m := range marks {
		end = max(end, m.at)
	}
	if end <= 0 {
		return fmt.Errorf("status.json holds no run")
	}
	tick := niceTick(end / 6)
	end = math.Ceil(end/tick) * tick
	x := func(ms float64) float64 { return timelineLeft + ms/end*timelineWidth }

	rows := len(s.Steps) + len(marks)
	height := timelineTop + rows*timelineRow + 52
	if len(marks) > 0 {
		height += 28
	}
	p := &svg{w: w}
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="Helvetica, Arial, sans-serif" font-size="12">`+"\n",
		timelineLeft+timelineWidth+timelineText, height)
	p.printf(`<rect width="100%%" height="100%%" fill="#ffffff"/>` + "\n")
	p.text(12, 22, "#1c2833", "bold", strings.TrimSpace("azprov "+s.Version)+": steps of one run")
	bottom := height - 34
	for ms := 0.0; ms <= end+tick/2; ms += tick {
		p.printf(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e3e7ea"/>`+"\n", x(ms), timelineTop-8, x(ms), bottom)
		p.text(x(ms)-8, float64(bottom+16), "#5d6b77", "normal", fmt.Sprintf("%g", ms))
	}
	p.text(x(end)+14, float64(bottom+16), "#5d6b77", "normal", "ms after the start")
	y := float64(timelineTop)
	for _, step := range s.Steps {
		color := outcomeColor[step.Outcome]
		if color == "" {
			color = "#5d6b77"
		}
		p.text(12, y+13, "#1c2833", "normal", step.Name)
		p.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="14" rx="2" fill="%s"/>`+"\n", x(step.StartMS), y+2, max(2, x(step.EndMS)-x(step.StartMS)), color)
		p.text(timelineLeft+timelineWidth+14, y+13, "#3d4a55", "normal", shorten(step.Text, 64))
		y += timelineRow
	}
	if len(marks) > 0 {
		p.text(12, y+18, "#1c2833", "bold", "platform")
		y += 28
	}
	for _, m := range marks {
		p.printf(`<circle cx="%.1f" cy="%.1f" r="4" fill="#5b8c5a"/>`+"\n", x(m.at), y+9)
		p.text(timelineLeft+timelineWidth+14, y+13, "#3d4a55", "normal", shorten(m.label, 64))
		y += timelineRow
	}
	if s.ReadyMS > 0 {
		p.printf(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#3f8f3f" stroke-dasharray="4 3"/>`+"\n", x(s.ReadyMS), timelineTop-8, x(s.ReadyMS), bottom)
		p.text(x(s.ReadyMS)-30, timelineTop-12, "#3f8f3f", "bold", fmt.Sprintf("Ready %.1f", s.ReadyMS))
	}
	p.printf("</svg>\n")
	return p.err
}

// niceTick rounds a distance up to 1, 2 or 5 times a power of ten.
func niceTick(d float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(d)))
	for _, m := range []float64{1, 2, 5} {
		if d <= m*power {
			return m * power
		}
	}
	return 10 * power
}

func shorten(s string, max int) string {
	r := []rune(s)
	if len(r) <= max {
		return s
	}
	return string(r[:max-1]) + "…"
}

// svg writes elements and keeps the first error.
type svg struct {
	w   io.Writer
	err error
}

func (p *svg) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *svg) text(x, y float64, color, weight, s string) {
	p.printf(`<text x="%.1f" y="%.1f" fill="%s" font-weight="%s">%s</text>`+"\n", x, y, color, weight, html.EscapeString(s))
}

// marksBetween turns requests into marks of a timeline.
func marksBetween(start, end time.Time, events []Event) []mark {
	var marks []mark
	for _, e := range events {
		if e.Service == "sandbox" || e.Time.Before(start) || e.Time.After(end) {
			continue
		}
		label := e.Service
		for _, part := range []string{e.Type, e.Method, e.Path, e.Name, e.State, e.Sub} {
			if part != "" {
				label += " " + part
			}
		}
		if e.Fault != "" {
			label += " (" + e.Fault + ")"
		}
		marks = append(marks, mark{at: float64(e.Time.Sub(start)) / 1e6, label: label})
	}
	return marks
}
