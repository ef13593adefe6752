package main

import (
	"context"
	"errors"
	"slices"
	"time"
)

// rankPatience is how long a lease that does not lead to the platform waits for
// a better one on another interface.
const rankPatience = 2 * time.Second

// offers is DHCP on several interfaces at once.
type offers struct {
	m        *machine
	hostName string
	links    []*link // all candidates
	started  map[int]context.CancelFunc
	dark     map[int]bool // started without carrier
	running  int
	answers  chan answer
	leases   []*lease
	lastErr  error
}

// answer is how DHCP has ended on the interface with an index.
type answer struct {
	index int
	lease *lease
	err   error
}

func (m *machine) newOffers(links []*link, hostName string) *offers {
	return &offers{m: m, hostName: hostName, links: links, started: map[int]context.CancelFunc{}, dark: map[int]bool{}, answers: make(chan answer, maxOffers)}
}

// maxOffers is on how many interfaces DHCP is done, more than a VM can have.
const maxOffers = 64

// start begins the exchange on an interface, or begins it anew when it was begun
// without carrier.
func (o *offers) start(ctx context.Context, l *link) {
	if cancel := o.started[l.Index]; cancel != nil {
		cancel()
	} else if len(o.started) == maxOffers {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	o.started[l.Index], o.dark[l.Index] = cancel, !l.carrier()
	o.running++
	own := *l // the list may be renamed meanwhile
	go func() {
		le, err := o.m.acquire(ctx, &own, o.hostName)
		o.answers <- answer{own.Index, le, err}
	}()
}

// take notes how DHCP has ended on an interface.
func (o *offers) take(a answer) *lease {
	o.running--
	if a.err != nil {
		if !errors.Is(a.err, context.Canceled) {
			o.lastErr = a.err
		}
		return nil
	}
	for _, l := range o.links {
		if l.Index == a.index {
			a.lease.Link = l
		}
	}
	o.leases = append(o.leases, a.lease)
	return a.lease
}

// best returns the lease of the highest rank, of several the one that came first.
func (o *offers) best() *lease {
	var best *lease
	for _, le := range o.leases {
		if best == nil || le.rank() > best.rank() {
			best = le
		}
	}
	return best
}

// cancel ends the exchanges that are under way; stop also waits for that.
func (o *offers) cancel() {
	for _, cancel := range o.started {
		cancel()
	}
}

func (o *offers) stop() {
	o.cancel()
	o.wait()
}

// wait takes all answers that are still to come.
func (o *offers) wait() {
	for o.running > 0 {
		o.take(<-o.answers)
	}
}

// acquirePrimary does DHCP on all candidates at once and returns the lease of
// the primary interface: the first that leads to the platform; after a while, or
// when all have answered, the best there is. An interface takes part once it has
// carrier, or when that has been waited for long enough; so does one that
// appears meanwhile. The other exchanges go on.
func (m *machine) acquirePrimary(ctx context.Context, links []*link, hostName string) (*lease, *offers, error) {
	o := m.newOffers(links, hostName)
	began := time.Now()
	patience := carrierPatience
	if len(links) > 1 {
		patience = carrierPatienceMany
	}
	var better <-chan time.Time
	look := make(chan struct{}, 1)
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	watching := false
	for {
		idle := true
		for _, l := range o.links {
			begun, late := o.started[l.Index] != nil, time.Since(began) >= patience
			if !begun && (l.carrier() || late) || o.dark[l.Index] && l.carrier() {
				o.start(ctx, l)
				begun = true
			}
			idle = idle && begun && !o.dark[l.Index]
		}
		// The events of one interface that answers at once are not worth a socket.
		wait := time.NewTimer(carrierPatience)
		if !idle && !watching {
			watching = true
			go watchLinks(watchCtx, look)
		}
		select {
		case <-ctx.Done():
		case a := <-o.answers:
			if le := o.take(a); le != nil && le.rank() == 3 {
				return le, o, nil
			}
			if better == nil && len(o.leases) > 0 {
				better = time.After(rankPatience)
			}
			if o.running == 0 && idle {
				if le := o.best(); le != nil {
					return le, o, nil
				}
				return nil, o, o.lastErr
			}
		case <-better:
			return o.best(), o, nil
		case <-look:
			o.refresh()
		case <-wait.C:
			if !watching {
				watching = true
				go watchLinks(watchCtx, look)
			}
			o.refresh()
		}
		wait.Stop()
		if ctx.Err() != nil {
			o.wait() // the exchanges end by the same deadline, and say what they have seen
			if o.lastErr == nil {
				o.lastErr = ctx.Err()
			}
			return nil, o, o.lastErr
		}
	}
}

// refresh lists the candidates anew and brings up those that have appeared.
func (o *offers) refresh() {
	r, err := openRTNL()
	if err != nil {
		return
	}
	defer r.close()
	_, list, err := o.m.look(r, o.links)
	if err != nil {
		return
	}
	if o.m.raise(r, list) {
		if _, again, err := o.m.look(r, list); err == nil {
			list = again
		}
	}
	// What has gone for the moment is still named in what its exchange says.
	for _, l := range o.links {
		if !slices.ContainsFunc(list, func(n *link) bool { return n.Index == l.Index }) && o.started[l.Index] != nil {
			list = append(list, l)
		}
	}
	for _, le := range o.leases {
		for _, l := range list {
			if l.Index == le.Link.Index {
				le.Link = l
			}
		}
	}
	o.links = list
}

// watchLinks sends at every link event until ctx is done.
func watchLinks(ctx context.Context, look chan<- struct{}) {
	w := &linkWatch{}
	if w.open() != nil {
		return
	}
	defer w.close()
	for w.wait(ctx, linkEventPoll) == nil {
		select {
		case look <- struct{}{}:
		default:
		}
	}
}
