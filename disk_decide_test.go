package main

import (
	"os"
	"strings"
	"testing"
)

// decisionTable is the table of the README.
func decisionTable() string {
	var b strings.Builder
	b.WriteString("| what is seen of the disk | verdict |\n|---|---|\n")
	for _, r := range diskRules {
		b.WriteString("| " + r.why + " | " + r.verdict.String() + " |\n")
	}
	return b.String()
}

func TestReadmeShowsTheDecisionTable(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "<!-- disk table: made from disk_decide.go, compared by a test -->\n")
	shown, _, ok := strings.Cut(rest, "<!-- end of disk table -->")
	if want := decisionTable(); !ok || shown != want {
		t.Errorf("README.md should show\n%s\nbut shows\n%s", want, shown)
	}
}

// Every row of the table is reached by its own signs; the last by none.
func TestEveryRuleCounts(t *testing.T) {
	for i, r := range diskRules {
		if v, why := decideDisk(r.signs); v != r.verdict || why != r.why {
			t.Errorf("row %d (%s) is never reached: %s, because %s", i+1, r.why, v, why)
		}
	}
}

// Over all sets of signs: what is in use, can't be read or written, or holds data
// is never formatted; only what was proven to hold nothing is.
func TestDecisionOverAllSigns(t *testing.T) {
	const last = signFormatOff
	for s := diskSigns(0); s < last<<1; s++ {
		v, why := decideDisk(s)
		if why == "" {
			t.Fatalf("%b: no row", s)
		}
		if v != diskFormat {
			continue
		}
		proven := s&signCutOff != 0 || s&signBlank != 0 || s&(signNTFS|signFresh) == signNTFS|signFresh || s&(signOurs|signDamaged|signReformat) == signOurs|signDamaged|signReformat
		if !proven || s&(signMounted|signBusy|signReadOnly|signSmall|signUnread|signFormatOff) != 0 {
			t.Fatalf("%b: formatted, because %s", s, why)
		}
	}
}
