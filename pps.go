package main

import (
	"context"
	"errors"
	"time"
)

// The kinds of pre-provisioned VMs. The platform boots such a VM ahead of time
// into a pool, where it reports Ready, and gives it to a customer later: then it
// is provisioned by a new document. What it saw before, the pool's account above
// all, is never applied.
const (
	poolRunning = "Running"              // its network is switched
	poolSavable = "Savable"              // it is saved; its network card is taken away and another comes
	poolOSDisk  = "PreprovisionedOSDisk" // it is shut down; its disk goes to another VM
)

// poolType is the kind of a pre-provisioned VM by what a source says: its name
// for the kind, and whether it says that there is one at all.
func poolType(kind string, pool bool) string {
	switch {
	case poolRank(kind) > 0:
		return kind
	case pool:
		return poolRunning
	}
	return ""
}

// poolRank orders the kinds for sources that differ; 0 is none.
func poolRank(kind string) int {
	switch kind {
	case poolRunning:
		return 1
	case poolOSDisk:
		return 2
	case poolSavable:
		return 3
	}
	return 0
}

// errShutdownAwaited is a VM that still runs although its disk was to go elsewhere.
var errShutdownAwaited = errors.New("the host has not shut this VM down")

// shutdownPatience is how long a VM waits for the shutdown.
const shutdownPatience = 365 * 24 * time.Hour

// inPool says whether this VM was in a pool when an earlier run ended.
func (b *boot) inPool() bool {
	p := b.instance.Progress
	return (p == pooling || p == pooled) && b.instance.of(b.instanceID())
}

func (b *boot) saveProgress(p progress) error {
	b.instance = instance{ID: b.instanceID(), Progress: p}
	return b.instance.save(b.guest)
}

// poolReady reports Ready for the pool. What tells that the VM is given away is
// watched from before the report, since it may follow at once, and even cut the
// report off.
func (b *boot) poolReady(ctx context.Context) (string, error) {
	w := &poolWatch{m: b.machine, kind: b.poolKind, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.kind != poolOSDisk {
		if err := w.begin(b.link.Index); err != nil {
			return "", err
		}
		if err := b.saveProgress(pooling); err != nil {
			return "", err
		}
		go func() {
			w.watch(context.Background())
			cancel()
		}()
	}
	err := b.wire.report(ctx, b.goal, health{State: "Ready"})
	select {
	case <-w.done:
		err = nil
	default:
	}
	if err != nil && w.kind == poolSavable {
		// The VM may be saved in the middle of the call.
		b.log.note("ready", err.Error()+"; as expected of a VM that is being saved")
		err = nil
	}
	if err != nil {
		return "", err
	}
	b.pool = w
	if w.kind != poolOSDisk {
		if err := b.saveProgress(pooled); err != nil {
			return "", err
		}
	}
	b.writeReport(b.newReport("success"))
	return "Ready reported for the pool: pre-provisioned VM, " + w.kind, nil
}

// waitInPool returns when the VM has been given away.
func (b *boot) waitInPool() error {
	if b.pool.kind == poolOSDisk {
		time.Sleep(shutdownPatience)
		return failure("wait for", "shutdown", errShutdownAwaited)
	}
	<-b.pool.done
	return nil
}

// reuse returns the run that provisions a VM which has been given away: its
// network is up and its document has come. Nothing bounds how long that takes.
// Gone says that the network is not the pool's any more.
//
// A VM that was started anew in the pool may find that it is in none: then the
// run is like any first one.
func (b *boot) reuse(gone bool) *boot {
	fresh := newBoot(b.machine)
	c := b.newIMDS()
	defer c.http.close()
	p := &reprovision{client: c, restarted: !gone}
	for {
		if gone {
			b.dropNetwork()
			fresh = newBoot(b.machine)
		}
		c.http.close()
		// The steps of the plan, with its deadlines, again and again.
		fresh.runPlan(context.Background(), rows(plan(b.cfg), "link", "lease"), time.Now(), func(step) bool { return true })
		gone = true
		if fresh.lease == nil {
			time.Sleep(time.Second)
			continue
		}
		doc, ended := p.pollHere(fresh)
		if doc != nil || ended {
			fresh.document = doc
			if ended {
				fresh.log.note("pool", "the metadata service says that this VM is in no pool: an ordinary first boot")
				if err := fresh.saveProgress(applying); err != nil {
					fresh.warn("pool", "%v", err)
				}
			}
			return fresh
		}
	}
}

// reprovision asks for the document that a VM gets when it leaves the pool.
type reprovision struct {
	client    *imdsClient
	restarted bool // the VM was started anew: what it was told is not known for certain
	asked     int
	denied    int // how often the metadata service has said that the VM is in no pool
}

const (
	reprovisionTarget = "/metadata/reprovisiondata?api-version=2019-06-01"
	reprovisionPause  = time.Second
	// reprovisionDenials is how many times, a pause apart, the metadata service
	// must say that a VM is in no pool before it is believed.
	reprovisionDenials = 5
	reprovisionLong    = 30 * time.Second // after answers that more of the same won't better
)

// pollHere polls until the network is switched.
func (p *reprovision) pollHere(b *boot) (doc secret, ended bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &poolWatch{m: b.machine, done: make(chan struct{})}
	if err := w.begin(b.lease.Link.Index); err != nil {
		b.log.note("pool", err.Error())
	} else {
		go func() {
			w.watch(ctx)
			cancel()
		}()
	}
	return p.poll(ctx, b)
}

// poll asks until the document has come, or the network has to be set up anew
// (neither result). Ended: the VM is in no pool.
func (p *reprovision) poll(ctx context.Context, b *boot) (doc secret, ended bool) {
	for ctx.Err() == nil {
		p.asked++
		resp, err := p.client.get(ctx, reprovisionTarget)
		pause := reprovisionPause
		switch {
		case err != nil && errors.Is(err, errConnect):
			b.log.note("pool", err.Error()+"; setting up the network anew")
			return nil, false
		case err != nil: // a read timeout, or a connection that was cut off
		case resp.status == 200 && len(resp.body) == 0:
		case resp.status == 200:
			s, parseErr := parseOVF(resp.body)
			if parseErr == nil {
				s.wipe()
				b.log.note("pool", sprintf("reprovision data came, asked for %d times", p.asked))
				return resp.body, false
			}
			err, pause = failure("parse reprovision data", "", parseErr), reprovisionLong
		default:
			var final bool
			if final, err = imdsStatus(reprovisionTarget, resp); final {
				pause = reprovisionLong
			}
		}
		if p.restarted && resp != nil && p.resume(ctx, b) {
			return nil, true
		}
		if err == nil {
			err = errors.New("no reprovision data yet")
		}
		p.client.retry(ctx, err, pause)
	}
	return nil, false
}

// resume settles what a restart has left open when there is no document yet: a
// VM may be in no pool at all, and Ready may not have been reported. One that has
// just left its pool is in none either, and its document may be late.
func (p *reprovision) resume(ctx context.Context, b *boot) (ended bool) {
	limited, cancel := context.WithTimeout(ctx, imdsReadLimit)
	defer cancel()
	if md, err := p.client.instance(limited, true); err == nil && md.PPSType == "None" && !b.mediumOfPool() {
		p.denied++
		return p.denied >= reprovisionDenials
	}
	p.restarted = false
	if b.instance.Progress != pooling {
		return false
	}
	limited, cancelReport := context.WithTimeout(ctx, b.cfg.NetworkWait)
	defer cancelReport()
	w, err := b.newWire()
	if err == nil {
		err = w.report(limited, nil, health{State: "Ready"})
	}
	if err == nil {
		err = b.saveProgress(pooled)
	}
	if err != nil {
		b.log.note("pool", err.Error())
	}
	return false
}

// mediumOfPool says whether there still is the medium of a pool: to provision from
// it would only lead back here.
func (b *boot) mediumOfPool() bool {
	list := []string{b.cfg.Media}
	if b.cfg.Media == "" {
		list = b.drives()
	}
	for _, name := range list {
		med, err := b.readMedium(name, b.cfg.Media != "")
		if err != nil {
			continue
		}
		s, err := parseOVF(med.OVF)
		med.OVF.wipe()
		if err == nil {
			s.wipe()
			return s.Preprovisioned != ""
		}
	}
	return false
}

// dropNetwork takes addresses and routes of the pool's network away. What fails
// is left: the lease that follows says more.
func (b *boot) dropNetwork() {
	r, err := openRTNL()
	if err != nil {
		return
	}
	defer r.close()
	all, err := r.links()
	if err != nil {
		return
	}
	for _, l := range b.candidates(all) {
		for range maxIMDSAddresses {
			addresses, err := r.addresses()
			if p := addresses[l.Index]; err != nil || !p.IsValid() || r.removeAddress(l, p) != nil {
				break
			}
		}
		if err := r.setUp(l, false); err != nil {
			b.log.note("pool", err.Error())
		}
	}
}
