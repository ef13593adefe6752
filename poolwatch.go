package main

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// poolWatch waits for what the platform does to the network of a VM that it
// gives away. Events only wake it: what has happened it sees in the kernel's
// list of links and their counters, so that no lost or broken event matters.
type poolWatch struct {
	m      *machine
	kind   string
	events linkWatch
	index  int          // of the lease's interface
	mac    mac          // its address
	before map[int]bool // all interfaces of the start
	change int          // of that interface: how often its carrier had changed
	up     bool         // it has been seen running: the kernel says so only a while after the carrier came
	gone   bool         // it went away or lost its carrier
	done   chan struct{}
}

const (
	poolPoll   = time.Minute // how often to look without an event
	poolReport = time.Hour   // how often to say that the wait goes on
)

// begin opens the socket and notes how the network is. It must come before the
// host hears of Ready.
func (w *poolWatch) begin(index int) error {
	if err := w.events.open(); err != nil {
		return err
	}
	list, err := w.links()
	if err != nil {
		w.events.close()
		return err
	}
	w.index, w.before = index, map[int]bool{}
	for _, l := range list {
		w.before[l.Index] = true
		if l.Index == index {
			w.mac, w.change = l.MAC, l.Changes
		}
	}
	return nil
}

// links lists the interfaces that may be the VM's own: no virtual functions.
func (w *poolWatch) links() ([]*link, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	defer r.close()
	all, err := r.links()
	if err != nil {
		return nil, err
	}
	return w.m.candidates(all), nil
}

// watch closes done when the VM has been given away, or ctx is.
func (w *poolWatch) watch(ctx context.Context) {
	defer close(w.done)
	defer w.events.close()
	said := time.Now()
	for ctx.Err() == nil {
		list, err := w.links()
		if err == nil && w.given(list) {
			return
		}
		if err == nil {
			err = w.events.wait(ctx, poolPoll)
		}
		if err != nil && ctx.Err() == nil {
			// The next look may do better; not at once, though.
			w.m.log.note("pool", err.Error())
			sleep(ctx, time.Second)
		}
		if time.Since(said) >= poolReport {
			said = time.Now()
			w.m.log.note("pool", sprintf("still waiting to be given to a customer (%s)", w.kind))
		}
	}
}

// given judges the interfaces as they are now. It is called in order.
func (w *poolWatch) given(list []*link) bool {
	var own, other *link // the interface itself, one that took its place
	arrived, left := false, len(w.before)
	for _, l := range list {
		switch {
		case l.Index == w.index:
			own = l
		case l.MAC == w.mac:
			other = l
		}
		if w.before[l.Index] {
			left--
		} else {
			arrived = true
		}
	}
	if w.kind == poolSavable {
		// One is taken away, then one comes; another that only comes is none.
		if w.gone = w.gone || left > 0; !w.gone {
			for _, l := range list {
				w.before[l.Index] = true
			}
		}
		return w.gone && arrived
	}
	if own == nil {
		w.gone = true
		own = other
	} else if own.Changes-w.change >= 2 {
		w.gone = true
	}
	if own == nil {
		return false
	}
	// IFF_RUNNING is operstate up, or unknown with a carrier (RFC 2863).
	running := own.Flags&unix.IFF_RUNNING != 0
	w.gone = w.gone || w.up && !running
	w.up = w.up || running
	return w.gone && running
}
