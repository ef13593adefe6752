package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runTestPlan runs a plan on an empty machine, every row having work.
func runTestPlan(t *testing.T, plan []step, skip ...string) (*boot, map[string]result) {
	t.Helper()
	m := newTestMachine(t)
	m.cfg.Skip = skip
	b := &boot{machine: m, spec: &spec{}}
	by := map[string]result{}
	for _, r := range b.runPlan(context.Background(), plan, time.Now(), func(step) bool { return true }) {
		by[r.Name] = r
	}
	return b, by
}

func does(text string) func(*boot, context.Context) (string, error) {
	return func(*boot, context.Context) (string, error) { return text, nil }
}

func breaks(err error) func(*boot, context.Context) (string, error) {
	return func(*boot, context.Context) (string, error) { return "", err }
}

func TestPlanRunsInOrderOfNeeds(t *testing.T) {
	var order []string
	note := func(name string) func(*boot, context.Context) (string, error) {
		return func(*boot, context.Context) (string, error) { order = append(order, name); return name, nil }
	}
	_, by := runTestPlan(t, []step{
		{name: "a", run: note("a")},
		{name: "b", needs: []string{"a"}, run: note("b")},
		{name: "c", needs: []string{"b"}, run: note("c")},
	})
	if !slices.Equal(order, []string{"a", "b", "c"}) {
		t.Errorf("order %v", order)
	}
	if by["c"].Start < by["b"].End || by["b"].Start < by["a"].End {
		t.Errorf("a step started before what it needs had ended: %+v", by)
	}
}

func TestPlanStepsOverlap(t *testing.T) {
	meet := make(chan bool)
	_, by := runTestPlan(t, []step{
		{name: "a", run: func(*boot, context.Context) (string, error) { meet <- true; return "", nil }},
		{name: "b", run: func(*boot, context.Context) (string, error) { <-meet; return "", nil }},
	})
	if by["a"].Outcome != ok || by["b"].Outcome != ok {
		t.Errorf("outcomes %+v", by)
	}
}

func TestPlanFailure(t *testing.T) {
	cause := failure("open", "/dev/sr0", unix.ENOMEDIUM)
	b, by := runTestPlan(t, []step{
		{name: "media", weight: required, run: breaks(cause)},
		{name: "user", needs: []string{"media"}, run: does("made")},
		{name: "ssh", needs: []string{"user"}, run: does("made")},
		{name: "disk", weight: bestEffort, run: breaks(errors.New("no disk"))},
		{name: "link", weight: contact, run: does("eth0")},
		{name: "ready", needs: []string{"ssh", "disk"}, weight: contact, last: true, run: func(b *boot, _ context.Context) (string, error) {
			return b.run.firstFailure(required).Name, nil
		}},
	})
	want := map[string]outcome{"media": failed, "user": skipped, "ssh": skipped, "disk": warned, "link": ok, "ready": ok}
	for name, o := range want {
		if by[name].Outcome != o {
			t.Errorf("%s: outcome %s, want %s", name, by[name].Outcome, o)
		}
	}
	if by["ready"].Text != "media" {
		t.Errorf("the report blames %q", by["ready"].Text)
	}
	var se *stepError
	if !errors.As(by["media"].Err, &se) || se.Step != "media" || errnoOf(by["media"].Err) != unix.ENOMEDIUM {
		t.Errorf("error of media: %#v", by["media"].Err)
	}
	if w := b.currentWarnings(); len(w) != 1 || w[0].Step != "disk" {
		t.Errorf("warnings %v", w)
	}
}

func TestPlanPanicIsAFailure(t *testing.T) {
	_, by := runTestPlan(t, []step{{name: "a", weight: required, run: func(*boot, context.Context) (string, error) {
		var empty []int
		return string(rune(empty[3])), nil
	}}, {name: "b", weight: required, run: func(*boot, context.Context) (string, error) { panic("password hunter2") }}})
	if by["a"].Outcome != failed || !strings.Contains(by["a"].Err.Error(), "index out of range") {
		t.Errorf("a: %+v", by["a"])
	}
	if by["b"].Outcome != failed || strings.Contains(by["b"].Err.Error(), "hunter2") {
		t.Errorf("b: %+v", by["b"])
	}
}

func TestPlanWantsIsPatientButNotForEver(t *testing.T) {
	release := make(chan bool)
	_, by := runTestPlan(t, []step{
		{name: "hostname", run: func(*boot, context.Context) (string, error) { <-release; return "", nil }},
		{name: "lease", wants: []string{"hostname"}, patience: func(*config) time.Duration { return time.Millisecond },
			run: func(b *boot, _ context.Context) (string, error) {
				defer close(release)
				if b.run.ended("hostname") {
					return "with name", nil
				}
				return "without name", nil
			}},
	})
	if by["lease"].Text != "without name" {
		t.Errorf("lease ran %q", by["lease"].Text)
	}
}

func TestPlanSkip(t *testing.T) {
	_, by := runTestPlan(t, []step{
		{name: "a", run: breaks(errors.New("must not run"))},
		{name: "b", needs: []string{"a"}, run: does("ran")},
	}, "a")
	if by["a"].Outcome != skipped || by["b"].Outcome != ok {
		t.Errorf("outcomes %+v", by)
	}
}

func TestThePlanIsSound(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		cfg := defaultConfig()
		cfg.CustomDataWhen = when
		steps := plan(cfg)
		if err := checkPlan(steps); err != nil {
			t.Error(when, err)
		}
		report := steps[slices.IndexFunc(steps, func(s step) bool { return s.name == "ready" })]
		for _, s := range steps {
			if s.name == report.name {
				break
			}
			if !slices.Contains(report.needs, s.name) && !slices.Contains(report.wants, s.name) && !neededBy(steps, report, s.name) {
				t.Errorf("%s: ready does not wait for %s", when, s.name)
			}
		}
		for _, s := range steps {
			if s.run == nil || s.about == "" {
				t.Errorf("step %s is incomplete", s.name)
			}
		}
	}
}

// neededBy says whether a step needs another by way of others.
func neededBy(steps []step, s step, name string) bool {
	for _, n := range s.needs {
		i := slices.IndexFunc(steps, func(s step) bool { return s.name == n })
		if n == name || neededBy(steps, steps[i], name) {
			return true
		}
	}
	return false
}

func TestCheckPlan(t *testing.T) {
	if checkPlan([]step{{name: "a", needs: []string{"b"}}, {name: "b"}}) == nil {
		t.Error("a step may need what comes later")
	}
	if checkPlan([]step{{name: "a"}, {name: "a"}}) == nil {
		t.Error("a step may stand twice")
	}
}
