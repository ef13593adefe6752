package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long carrier is waited for before DHCP is tried all the same: with one
// candidate only its first packet can be lost, with several the choice hangs on it.
const (
	carrierPatience     = time.Second
	carrierPatienceMany = 10 * time.Second
	linkEventPoll       = time.Second // a missed event costs at most this
	driverNetvsc        = "hv_netvsc"
)

// findLinks returns the interfaces that may be the VM's, in their stable order,
// and brings them up; one alone gets its name before that. It waits by link
// events for the first to appear, and for one with carrier, until ctx is done.
func (m *machine) findLinks(ctx context.Context) ([]*link, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	defer r.close()
	w := &linkWatch{}
	defer w.close()
	var list []*link
	var since time.Time
	for {
		var all []*link
		if all, list, err = m.look(r, list); err != nil {
			return nil, err
		}
		m.nameBeforeUp(r, all, list)
		if m.raise(r, list) && !slices.ContainsFunc(list, (*link).carrier) {
			if all, list, err = m.look(r, list); err != nil {
				return nil, err
			}
		}
		if len(list) > 0 && since.IsZero() {
			since = time.Now()
		}
		if slices.ContainsFunc(list, (*link).carrier) || len(list) > 0 && time.Since(since) >= carrierPatience {
			return list, nil
		}
		wait := linkEventPoll
		if len(list) > 0 {
			wait = min(wait, carrierPatience-time.Since(since))
		}
		if w.conn == nil {
			// Open now and look again: what happened before is in the next list.
			if err := w.open(); err != nil {
				return nil, err
			}
			continue
		}
		if err := w.wait(ctx, wait); err != nil {
			return nil, m.noLink(all, err)
		}
	}
}

// look lists all interfaces and the candidates among them, and takes over from an
// older list of those what the kernel does not tell.
func (m *machine) look(r *rtnl, older []*link) (all, list []*link, err error) {
	if all, err = r.links(); err != nil {
		return nil, nil, err
	}
	list = m.candidates(all)
	for _, l := range list {
		for _, o := range older {
			l.Raised = l.Raised || o.Raised && o.Index == l.Index
		}
	}
	return all, list, nil
}

// raise brings up what is down and says whether there was anything.
func (m *machine) raise(r *rtnl, list []*link) (any bool) {
	for _, l := range list {
		if l.up() {
			continue
		}
		if err := r.setUp(l, true); err != nil {
			m.log.note("link", err.Error())
			continue
		}
		l.Raised, any = true, true
	}
	return any
}

// candidates returns the interfaces that may be configured, in an order that
// does not change from boot to boot: by the device's place on its bus, which on
// VMBus is the id of its channel, then by MAC address.
func (m *machine) candidates(all []*link) []*link {
	var list []*link
	for _, l := range all {
		l.Driver, l.Path = m.driverOf(l.Name), m.pathOf(l.Name)
	}
	for _, l := range all {
		if m.cfg.Interface != "" {
			if l.Name == m.cfg.Interface {
				return []*link{l}
			}
			continue
		}
		switch {
		case l.Type != unix.ARPHRD_ETHER, l.Flags&(unix.IFF_LOOPBACK|unix.IFF_SLAVE|unix.IFF_POINTOPOINT) != 0, l.Master != 0:
		case l.Kind != "" && l.Kind != "veth": // bridges, tunnels, dummies
		case isFunction(l, all):
		default:
			list = append(list, l)
		}
	}
	for _, real := range []func(*link) bool{
		func(l *link) bool { return l.Driver == driverNetvsc },
		func(l *link) bool { return l.Kind == "" },
	} {
		if slices.ContainsFunc(list, real) {
			list = slices.DeleteFunc(list, func(l *link) bool { return !real(l) })
		}
	}
	sortFew(list, func(a, b *link) bool {
		if a.Path != b.Path {
			return a.Path < b.Path
		}
		if c := bytes.Compare(a.MAC[:], b.MAC[:]); c != 0 {
			return c < 0
		}
		return a.Index < b.Index
	})
	return list
}

// isFunction says whether an interface is the virtual function of a synthetic
// one: it has the same MAC address, and another driver. The kernel makes it that
// one's slave, though not at once.
func isFunction(l *link, all []*link) bool {
	return l.Driver != driverNetvsc && slices.ContainsFunc(all, func(o *link) bool { return o.Driver == driverNetvsc && o.MAC == l.MAC })
}

// driverOf is the name of the driver behind an interface, "" for virtual ones.
func (m *machine) driverOf(name string) string {
	target, err := os.Readlink(m.sys("class/net", name, "device/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// pathOf is the place of an interface's device in sysfs, "" for virtual ones.
func (m *machine) pathOf(name string) string {
	target, err := os.Readlink(m.sys("class/net", name))
	if err != nil {
		return ""
	}
	device, _, found := strings.Cut(target, "/net/")
	if !found {
		return ""
	}
	return device
}

func (m *machine) noLink(all []*link, cause error) error {
	var seen []string
	for _, l := range all {
		state := "down"
		if l.carrier() {
			state = "carrier"
		} else if l.up() {
			state = "up, no carrier"
		}
		seen = append(seen, strings.TrimSpace(sprintf("%s %s %s", oneLine(l.Name, 15), l.Driver, state)))
	}
	what := "a network interface"
	if m.cfg.Interface != "" {
		what = m.cfg.Interface
	}
	return failureHint("wait for", what, cause, "seen: "+strings.Join(seen, "; ")+"; is the hv_netvsc driver there?")
}
