package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// weight says what the failure of a step means.
type weight int

const (
	required   weight = iota // the VM is not provisioned: Azure is told so
	contact                  // Azure can't be told anything: it is told on a later run
	bestEffort               // a warning
)

func (w weight) String() string { return [...]string{"required", "contact", "best effort"}[w] }

// occasion says in which runs a step has work.
type occasion int

const (
	firstBoot      occasion = iota // while the instance is not provisioned
	unacknowledged                 // until Azure has acknowledged Ready
	everyBoot
)

func (o occasion) String() string { return [...]string{"first boot", "until ready", "every boot"}[o] }

// step is a row of the plan. It starts as soon as the steps that it needs have
// ended well; steps that it wants are waited for up to its patience, however
// they end.
type step struct {
	name     string
	about    string // what it does, for azprov plan
	needs    []string
	wants    []string
	patience func(*config) time.Duration // nil: until they end
	enough   func(*boot) bool            // true: what it wants is not waited for; asked when its needs have ended
	weight   weight
	when     occasion
	// last runs the step although something that it needs has failed: the report.
	last bool
	run  func(*boot, context.Context) (string, error)
}

// outcome is how a step ended.
type outcome string

const (
	ok      outcome = "ok"
	failed  outcome = "failed"
	warned  outcome = "warning" // a best-effort step failed
	skipped outcome = "skipped"
)

// result is a step's row in the timeline. Times count from the start of the run.
type result struct {
	Name       string
	Weight     weight
	Outcome    outcome
	Start, End time.Duration
	Text       string // summary, or why it was skipped
	Err        error
}

// checkPlan finds steps that need what does not exist or what comes later in
// the table: a plan that passes can't deadlock.
func checkPlan(plan []step) error {
	seen := map[string]bool{}
	for _, s := range plan {
		for _, n := range slices.Concat(s.needs, s.wants) {
			if !seen[n] {
				return errorf("plan: step %s needs %s, which does not come before it", s.name, n)
			}
		}
		if seen[s.name] {
			return errorf("plan: step %s stands twice", s.name)
		}
		seen[s.name] = true
	}
	return nil
}

// pick returns the names of steps and of all that they need, directly or not.
func pick(plan []step, names []string) []string {
	picked := slices.Clone(names)
	for i := len(plan) - 1; i >= 0; i-- { // what a step needs stands above it
		if slices.Contains(picked, plan[i].name) {
			picked = append(picked, plan[i].needs...)
		}
	}
	return picked
}

// partial says whether this run was to do less than to report to Azure.
func (b *boot) partial() bool {
	return len(b.cfg.Only) > 0 && !slices.Contains(pick(plan(b.cfg), b.cfg.Only), "ready")
}

// rows returns some rows of a plan, which then wait only for each other.
func rows(plan []step, names ...string) []step {
	var list []step
	for _, s := range plan {
		if slices.Contains(names, s.name) {
			s.wants = nil
			list = append(list, s)
		}
	}
	return list
}

// running is a plan under way.
type running struct {
	began   time.Time
	mu      sync.Mutex
	results map[string]*result
	done    map[string]chan struct{}
}

// ended says whether a step has ended, without waiting. Data that the step has
// left behind may be read once it has.
func (r *running) ended(name string) bool {
	ch, exists := r.done[name]
	if !exists {
		return false
	}
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// result returns how an ended step ended; nil while it runs or when the plan
// has no such step.
func (r *running) result(name string) *result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.results[name]
}

// firstFailure returns the result of a weight that failed first, or nil.
func (r *running) firstFailure(w weight) *result {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first *result
	for _, res := range r.results {
		if res.Weight == w && res.Outcome == failed && (first == nil || res.End < first.End) {
			first = res
		}
	}
	return first
}

// runPlan starts every step as soon as it may and returns when all have ended.
// Rows that have no work in this run, or that the configuration skips, count
// as ended well. Times count from began.
func (b *boot) runPlan(ctx context.Context, plan []step, began time.Time, has func(step) bool) []result {
	r := &running{began: began, results: map[string]*result{}, done: map[string]chan struct{}{}}
	b.run = r
	for _, s := range plan {
		r.done[s.name] = make(chan struct{})
	}
	var wg sync.WaitGroup
	for _, s := range plan {
		wg.Go(func() {
			defer close(r.done[s.name])
			res := &result{Name: s.name, Weight: s.weight, Outcome: skipped}
			switch {
			case slices.Contains(b.cfg.Skip, s.name):
				res.Text = "left out by configuration"
			case !has(s):
			default:
				b.runStep(ctx, s, res)
			}
			res.End = time.Since(r.began)
			r.mu.Lock()
			r.results[s.name] = res
			r.mu.Unlock()
		})
	}
	wg.Wait()
	return r.timeline(plan)
}

// timeline returns the results so far, in the plan's order, without the rows
// that had no work in this run.
func (r *running) timeline(plan []step) []result {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]result, 0, len(plan))
	for _, s := range plan {
		if res := r.results[s.name]; res != nil && (res.Outcome != skipped || res.Text != "") {
			list = append(list, *res)
		}
	}
	return list
}

// runStep waits for what the step needs, runs it and fills in its result.
func (b *boot) runStep(ctx context.Context, s step, res *result) {
	r := b.run
	for _, n := range s.needs {
		<-r.done[n]
		need := r.result(n)
		if need.Outcome == failed || need.Outcome == warned || need.Outcome == skipped && need.Err != nil {
			res.Err = errNeed
			res.Text = "needs " + n
		}
	}
	if s.enough == nil || !s.enough(b) {
		r.awaitWanted(s, b.cfg)
	}
	res.Start = time.Since(r.began)
	if res.Err != nil && !s.last {
		return
	}
	res.Err, res.Text = nil, ""
	text, err := runSafely(s, b, ctx)
	took := time.Since(r.began) - res.Start
	res.Text = text
	if err == nil {
		res.Outcome = ok
		if text != "" {
			b.log.step(s.name, text, took)
		}
		return
	}
	res.Err = err
	var se *stepError
	if errors.As(err, &se) && se.Step == "" {
		se.Step = s.name
	}
	if s.weight == bestEffort {
		res.Outcome = warned
		b.warn(s.name, "%v", err)
		return
	}
	res.Outcome = failed
	b.log.fail(s.name, err.Error())
}

var errNeed = errors.New("a step that it needs did not end well")

func (r *running) awaitWanted(s step, cfg *config) {
	var patience <-chan time.Time
	if s.patience != nil {
		t := time.NewTimer(s.patience(cfg))
		defer t.Stop()
		patience = t.C
	}
	for _, n := range s.wants {
		select {
		case <-r.done[n]:
		case <-patience:
			return
		}
	}
}

// runSafely turns a panic of a step into its failure: the VM's owner gets a
// report instead of silence.
func runSafely(s step, b *boot, ctx context.Context) (text string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failureHint("run", s.name, errorf("internal error: %s", panicText(p)), "this is a defect of azprov: report it")
		}
	}()
	return s.run(b, ctx)
}

// panicText names a panic without its values, which may be secrets.
func panicText(p any) string {
	if err, isErr := p.(error); isErr {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return text
	}
	return "panic"
}
