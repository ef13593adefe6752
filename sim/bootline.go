package sim

import (
	"regexp"
	"strconv"
	"strings"
)

// stepLine is a line of azprov's console: name, text, and how long it took.
var stepLine = regexp.MustCompile(`^(?:\[[^\]]*\] )?azprov: (\S+) +(.*?)(?: +([0-9.]+) ms)?$`)

// consoleSteps reads a run from the serial console: the time until azprov's
// first word is the kernel's, each line ends a step. It is what is known of a
// guest whose files can't be read.
func consoleSteps(lines []ConsoleLine) runStatus {
	var s runStatus
	add := func(name, outcome, text string, start, end float64) {
		s.Steps = append(s.Steps, stepStatus{Name: name, Outcome: outcome, StartMS: max(start, 0), EndMS: end, Text: text})
	}
	for _, l := range lines {
		at := float64(l.At.Microseconds()) / 1000
		s.TookMS = at
		m := stepLine.FindStringSubmatch(l.Text)
		if m == nil {
			continue
		}
		took, _ := strconv.ParseFloat(m[3], 64)
		if len(s.Steps) == 0 {
			add("kernel", "ok", "firmware, kernel, start of azprov", 0, at-took)
		}
		outcome := "ok"
		for prefix, is := range map[string]string{"error: ": "failed", "warning: ": "warning"} {
			if strings.HasPrefix(m[2], prefix) {
				outcome = is
			}
		}
		if m[3] == "" && outcome == "ok" || m[1] == "azprov" {
			continue // a note, or the run as a whole
		}
		add(m[1], outcome, m[2], at-took, at)
	}
	return s
}
