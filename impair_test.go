package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// With three of ten frames lost each way, 200 ms of delay each way, frames doubled
// and out of order, the VM still becomes Ready. AZPROV_IMPAIRED is how often
// (make netem).
func TestImpairedNetwork(t *testing.T) {
	runs := 4
	if n, err := strconv.Atoi(os.Getenv("AZPROV_IMPAIRED")); err == nil {
		runs = n
	}
	for i := range runs {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			b.vm["impair"] = map[string]any{"loss": 0.3, "delay": 200, "jitter": 20, "duplicate": 0.1, "reorder": 0.25}
			o := b.run("", "/opt/azprov -imds.wait 2s")
			// A report whose answer was lost is sent again.
			if o.code != exitOK || strings.TrimLeft(o.reports()+" ", "Ready ") != "" || o.reports() == "" {
				t.Errorf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
			}
			t.Logf("Ready after %.1f s", o.took.Seconds())
		})
	}
}
