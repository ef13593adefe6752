package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long watch lets one request wait for its answer, and for how long it leaves
// what has failed alone.
const (
	watchPatience = 15 * time.Second
	watchPause    = time.Minute
)

// watcher is azprov watch: for images in which nobody else looks after the
// network, it keeps what azprov has configured as it should be.
type watcher struct {
	*machine
	ctx     context.Context
	leases  []*lease
	due     map[*lease]time.Time // when to see to a lease, never if it is missing
	carrier map[int]bool
	known   map[int]bool // interfaces that were seen, by index
	name    string       // the kernel's host name that has been published
	nameDue time.Time    // when to try again to publish it
}

// watchCommand runs until SIGTERM or SIGINT.
func watchCommand(m *machine) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	events, err := listenUevents()
	if err != nil {
		m.log.fail("watch", err.Error())
		return exitFailed
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		events.interrupt()
	}()
	w := &watcher{machine: m, ctx: ctx, due: map[*lease]time.Time{}, carrier: map[int]bool{}, known: map[int]bool{}}
	if err := w.run(events); err != nil {
		m.log.fail("watch", err.Error())
		return exitFailed
	}
	m.log.note("watch", "ended")
	return exitOK
}

// lockWatch keeps a second watch out.
func (m *machine) lockWatch() (*os.File, error) {
	if err := m.writeRun(runDir, "watch", nil, rootFile(0o600)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(runDir+"/watch", os.O_RDWR, 0)
	if err != nil {
		return nil, failure("open", runDir+"/watch", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, failureHint("lock", runDir+"/watch", err, "another azprov watch is running")
	}
	return f, nil
}

func (w *watcher) run(events *ueventSocket) error {
	lock, err := w.lockWatch()
	if err != nil {
		return err
	}
	defer lock.Close()
	links, err := bindRTNL(unix.RTMGRP_LINK)
	if err != nil {
		return err
	}
	defer links.close()
	// The kernel wakes who polls this file when the host name changes.
	names, err := os.Open(w.proc("sys/kernel/hostname"))
	if err != nil {
		return failure("open", w.proc("sys/kernel/hostname"), err)
	}
	defer names.Close()
	w.load()
	w.followLinks()
	w.followName()
	w.log.note("watch", w.summary())
	poll := []unix.PollFd{{Fd: int32(events.wake), Events: unix.POLLIN}, {Fd: int32(events.fd), Events: unix.POLLIN},
		{Fd: int32(links.fd), Events: unix.POLLIN}, {Fd: int32(names.Fd()), Events: unix.POLLPRI}}
	for w.ctx.Err() == nil {
		n, err := unix.Poll(poll, w.untilDue())
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 && poll[1].Revents != 0 {
			list, lost, err := events.receive()
			if err != nil && err != errInterrupted {
				return err
			}
			w.followDevices(list, lost)
		}
		if n > 0 && poll[2].Revents != 0 {
			// What has been lost is in the list that followLinks asks for.
			for {
				if _, err := links.receive(0); err != nil {
					break
				}
			}
			w.followLinks()
		}
		w.followName()
		for _, le := range slices.Clone(w.leases) {
			w.renewDue(le)
		}
	}
	return nil
}

// load takes over the leases of this boot.
func (w *watcher) load() {
	list, err := w.currentLeases()
	if err != nil {
		w.log.note("watch", err.Error())
		return
	}
	for _, le := range list {
		w.leases = append(w.leases, le)
		w.schedule(le)
	}
	w.name = w.nameOfKernel()
	if short, _, _ := strings.Cut(w.name, "."); !list[0].Configured && short != list[0].HostName {
		w.name = list[0].HostName
	}
}

func (w *watcher) summary() string {
	var texts []string
	for _, le := range w.leases {
		text := le.Prefix.String() + " via " + le.Link.Name
		if le.Lifetime > 0 {
			text += " for " + le.Lifetime.String()
		}
		texts = append(texts, text)
	}
	return joinTexts(texts...)
}

// schedule says when a lease is to be seen to next: at T1, T2 or its end.
func (w *watcher) schedule(le *lease) {
	delete(w.due, le)
	if le.Lifetime == 0 || le.Configured {
		return
	}
	for _, t := range []time.Duration{le.T1, le.T2, le.Lifetime} {
		if at := le.Since.Add(t); at.After(time.Now()) {
			w.due[le] = at
			return
		}
	}
	w.due[le] = time.Now()
}

// untilDue is for how many milliseconds there is nothing to do, -1 for ever.
func (w *watcher) untilDue() int {
	next := w.nameDue
	for _, at := range w.due {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.IsZero() {
		return -1
	}
	return int(min(max(time.Until(next), 0), 24*time.Hour)/time.Millisecond) + 1
}

// renewDue does what is due for a lease: asks its server for more, then anyone,
// and at its end gives the address up and starts over.
func (w *watcher) renewDue(le *lease) {
	if at, has := w.due[le]; !has || time.Now().Before(at) {
		return
	}
	age := time.Since(le.Since)
	if age >= le.Lifetime {
		w.again(le, "the lease of "+le.Prefix.String()+" has ended")
		return
	}
	limit := le.Lifetime
	if age < le.T2 {
		limit = le.T2
	}
	if !w.verify(le, age >= le.T2, min(limit-age, watchPatience)) {
		// Half of the time that is left, as RFC 2131 (4.4.5) has it.
		w.due[le] = time.Now().Add(max((limit-time.Since(le.Since))/2, 0))
	}
}

// verify asks whether a lease is still good and takes over its new times. A lease
// that is refused is given up, and another one got. It is false when nobody
// answers.
func (w *watcher) verify(le *lease, anyone bool, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	name := w.nameOfKernel()
	err := w.renew(ctx, le, name, anyone)
	switch {
	case err == nil:
		w.log.note("watch", "the lease of "+le.Prefix.String()+" on "+le.Link.Name+" is good")
		w.settled(le, name)
		return true
	case errors.Is(err, errNak):
		w.again(le, err.Error())
		return true
	}
	w.log.note("watch", err.Error())
	return false
}

// settled notes a lease that is in force.
func (w *watcher) settled(le *lease, published string) {
	if !le.Secondary {
		w.name = published
	}
	if !le.Configured {
		w.saveLeases(w.leases)
	}
	w.schedule(le)
}

// again gives a lease up and gets another one for its interface.
func (w *watcher) again(le *lease, why string) {
	if le.Link.Index != 0 {
		w.log.note("watch", why+": starting over on "+le.Link.Name)
		if err := w.withdraw(le, false); err != nil {
			w.log.note("watch", err.Error())
		}
	}
	w.due[le] = time.Now().Add(watchPause)
	ctx, cancel := context.WithTimeout(w.ctx, watchPatience)
	defer cancel()
	name := w.nameOfKernel()
	next, err := w.acquire(ctx, le.Link, name)
	if err == nil {
		next.Secondary, next.Metric = le.Secondary, le.Metric
		err = w.applyLease(next)
	}
	if err != nil {
		w.log.warn("watch", err.Error())
		return
	}
	w.log.note("watch", next.Prefix.String()+" via "+next.Link.Name)
	delete(w.due, le)
	w.leases[slices.Index(w.leases, le)] = next
	if !next.Secondary {
		if err := w.writeResolvConf(next); err != nil {
			w.log.warn("watch", err.Error())
		}
	}
	w.settled(next, name)
}

// followLinks looks for interfaces that have come, gone or got carrier.
func (w *watcher) followLinks() {
	if len(w.leases) == 0 {
		w.load()
	}
	r, err := openRTNL()
	if err != nil {
		w.log.warn("watch", err.Error())
		return
	}
	defer r.close()
	all, list, err := w.look(r, nil)
	if err != nil {
		w.log.warn("watch", err.Error())
		return
	}
	first := len(w.known) == 0
	for _, l := range all {
		if !w.known[l.Index] && !first && isFunction(l, all) {
			w.log.note("watch", l.Name+", "+l.Driver+", is a virtual function: left to the kernel")
		}
		w.known[l.Index] = true
	}
	for _, le := range slices.Clone(w.leases) {
		w.followLink(r, le, list, first)
	}
}

// followLink compares the interface of a lease with the candidates that there are.
func (w *watcher) followLink(r *rtnl, le *lease, list []*link, first bool) {
	i := slices.IndexFunc(list, func(l *link) bool { return l.Index == le.Link.Index })
	if i < 0 { // gone, or come back as another device
		i = slices.IndexFunc(list, func(l *link) bool { return l.MAC == le.Link.MAC })
		if i < 0 {
			delete(w.carrier, le.Link.Index)
			return
		}
		le.Link = list[i]
		le.Added, le.More = nil, nil // they have gone with it
		w.nameLinks(r, list, list)
		if w.raise(r, list[i:i+1]); !le.Configured {
			w.again(le, le.Link.MAC.String()+" has come back")
		}
		w.carrier[le.Link.Index] = true
		return
	}
	now, was := list[i].carrier(), w.carrier[le.Link.Index]
	le.Link.Flags, le.Link.Name = list[i].Flags, list[i].Name
	w.carrier[le.Link.Index] = now
	if first || !now || was || le.Configured {
		return
	}
	// The other end may be another network now; and routes go with a link that is
	// taken down.
	w.log.note("watch", le.Link.Name+" has carrier again")
	if err := w.applyLease(le); err != nil {
		w.log.warn("watch", err.Error())
	}
	if !w.verify(le, true, watchPatience) {
		w.due[le] = time.Now().Add(watchPause)
	}
}

func (w *watcher) nameOfKernel() string {
	return strings.TrimSpace(sysAttr(w.proc("sys/kernel/hostname")))
}

// followName publishes the kernel's host name when it is not the published one.
func (w *watcher) followName() {
	name := w.nameOfKernel()
	if len(w.leases) == 0 || name == w.name || name == "localhost" || validHostName(name) != nil || time.Now().Before(w.nameDue) {
		return
	}
	w.nameDue = time.Time{}
	ctx, cancel := context.WithTimeout(w.ctx, watchPatience)
	defer cancel()
	le := w.leases[0]
	if err := w.renew(ctx, le, name, true); err != nil {
		w.nameDue = time.Now().Add(watchPause)
		w.log.warn("watch", err.Error())
		return
	}
	w.log.note("watch", "host name "+name+" is published")
	if w.guest.isDir(waagentDir) {
		if err := w.guest.write(waagentDir+"/published_hostname", []byte(name), rootFile(0o600)); err != nil {
			w.log.warn("watch", err.Error())
		}
	}
	w.settled(le, name)
}

// followDevices sets the timeouts of disks that have been plugged in, and sets the
// resource disk up when the VM has got a new one with another host. When the
// kernel has dropped events, all disks are looked at.
func (w *watcher) followDevices(events []uevent, lost bool) {
	var disks []string
	for _, e := range events {
		if e.Subsystem == "block" && e.Action == "add" {
			disks = append(disks, e.DevName)
		}
	}
	if lost {
		disks = listDir(w.sys("block"))
	}
	resource := false
	for _, path := range disks {
		disk := filepath.Base(path)
		text, err := w.setTimeout(disk, false)
		if err != nil {
			w.log.warn("watch", err.Error())
		} else if text != "" {
			w.log.note("watch", disk+": timeout "+text)
		}
		role := w.diskRole(disk)
		resource = resource || role == roleResource || role == roleLocal
	}
	if !resource || w.cfg.ResourceDisk == "none" {
		return
	}
	text, err := w.setUpDisk(w.ctx, false, func(*openedDisk) {})
	if err != nil {
		w.log.warn("watch", err.Error())
		return
	}
	w.log.note("watch", text)
}
