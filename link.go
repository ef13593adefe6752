package main

import (
	"context"
	"fmt"
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

// chooseLink picks the interface to configure, brings it up and waits for
// carrier: the configured one; else the synthetic one of Hyper-V; else the first
// Ethernet interface with carrier. It waits by link events for an interface to
// appear until ctx is done.
func (m *machine) chooseLink(ctx context.Context) (*link, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	defer r.close()
	w := &linkWatch{}
	defer w.close()
	var raised []*link // what was down before
	var since time.Time
	for {
		all, err := r.links()
		if err != nil {
			return nil, err
		}
		list := m.candidates(all)
		for _, l := range list {
			if !l.up() {
				if err := r.setUp(l, true); err != nil {
					m.log.note("link", err.Error())
					continue
				}
				raised = append(raised, l)
			}
		}
		if len(raised) > 0 && len(list) > 0 && !slices.ContainsFunc(list, (*link).carrier) {
			if all, err = r.links(); err != nil {
				return nil, err
			}
			list = m.candidates(all)
		}
		if len(list) > 0 && since.IsZero() {
			since = time.Now()
		}
		patience := carrierPatience
		if len(list) > 1 {
			patience = carrierPatienceMany
		}
		if l := pickLink(list, !since.IsZero() && time.Since(since) >= patience); l != nil {
			m.lowerOthers(r, raised, l)
			return l, nil
		}
		wait := linkEventPoll
		if len(list) > 0 {
			wait = min(wait, patience-time.Since(since))
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

// candidates returns the interfaces that may be configured, best first.
func (m *machine) candidates(all []*link) []*link {
	var list []*link
	var synthetic []mac
	for _, l := range all {
		l.Driver = m.driverOf(l.Name)
		if l.Driver == driverNetvsc {
			synthetic = append(synthetic, l.MAC)
		}
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
		case l.Driver != driverNetvsc && slices.Contains(synthetic, l.MAC): // the virtual function of a synthetic one
		default:
			list = append(list, l)
		}
	}
	if len(synthetic) > 0 && m.cfg.Interface == "" {
		list = slices.DeleteFunc(list, func(l *link) bool { return l.Driver != driverNetvsc })
	}
	sortFew(list, func(a, b *link) bool {
		if len(a.Kind) != len(b.Kind) {
			return len(a.Kind) < len(b.Kind)
		}
		return a.Index < b.Index
	})
	return list
}

// pickLink returns the first candidate with carrier; once patience is over, the
// first of all.
func pickLink(list []*link, overdue bool) *link {
	for _, l := range list {
		if l.carrier() {
			return l
		}
	}
	if overdue && len(list) > 0 {
		return list[0]
	}
	return nil
}

// driverOf is the name of the driver behind an interface, "" for virtual ones.
func (m *machine) driverOf(name string) string {
	target, err := os.Readlink(m.sys("class/net", name, "device/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// lowerOthers takes down again what was brought up only to look for carrier.
func (m *machine) lowerOthers(r *rtnl, raised []*link, chosen *link) {
	for _, l := range raised {
		if l.Index != chosen.Index {
			if err := r.setUp(l, false); err != nil {
				m.log.note("link", err.Error())
			}
		}
	}
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
		seen = append(seen, strings.TrimSpace(fmt.Sprintf("%s %s %s", oneLine(l.Name, 15), l.Driver, state)))
	}
	what := "a network interface"
	if m.cfg.Interface != "" {
		what = m.cfg.Interface
	}
	return failureHint("wait for", what, cause, "seen: "+strings.Join(seen, "; ")+"; is the hv_netvsc driver there?")
}
