package main

import (
	"context"
	"slices"
	"strings"
	"time"
)

// lease is what DHCP, or whoever configured the interface before, has given.
type lease struct {
	Link       *link
	Configured bool     // the interface had an address: no DHCP was done
	Prefix     ipPrefix // address and prefix length
	Broadcast  ipAddr
	Server     ipAddr
	DNS        []ipAddr
	Domain     string
	Search     []string
	MTU        int // 0: leave as it is
	Routes     []route
	Router     ipAddr // option 3
	WireServer ipAddr // option 245
	HostName   string // the name that was sent, "" if none

	Since            time.Time     // when it was given
	Lifetime, T1, T2 time.Duration // 0: for ever
	Metric           int           // of its routes, 0 for the only interface
	Secondary        bool          // not the primary interface's
	Added            []route       // the routes that azprov has set
	BeforeMTU        int           // the interface's MTU before, 0 if it was not changed
	More             []ipPrefix    // further addresses that azprov has set
}

// wireServer is the address to report to: the configured one, else option 245,
// else the constant.
func (le *lease) wireServer(cfg *config) string {
	switch {
	case cfg.WireServer != "":
		return cfg.WireServer
	case le.WireServer.IsValid() && !le.WireServer.IsUnspecified():
		return le.WireServer.String()
	}
	return defaultWireServer
}

// rank says how sure it is that a lease is the primary interface's: 3 when it
// leads to the platform, 2 when it names a wire server, 1 when it has a router.
func (le *lease) rank() int {
	switch {
	case slices.ContainsFunc(le.Routes, func(r route) bool {
		return r.Dst.Bits() == 32 && slices.Contains(platformAddresses[:], r.Dst.Addr())
	}):
		return 3
	case le.WireServer.IsValid():
		return 2
	case le.Router.IsValid():
		return 1
	}
	return 0
}

func (b *boot) stepLink(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.NetworkWait)
	defer cancel()
	list, err := b.findLinks(ctx)
	if err != nil {
		return "", err
	}
	b.links, b.link = list, list[0]
	if len(list) == 1 {
		return joinTexts(b.link.Name, b.link.Driver, b.link.MAC.String()), nil
	}
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
	}
	return sprintf("%d interfaces: %s", len(list), strings.Join(names, " ")), nil
}

func (b *boot) stepLease(ctx context.Context) (string, error) {
	netCtx, cancel := context.WithTimeout(ctx, b.cfg.NetworkWait)
	le, o, err := b.leaseOfPrimary(netCtx)
	b.offers = o
	if err != nil {
		cancel()
		return "", err
	}
	b.stopOffers = cancel
	if err := b.applyLease(le); err != nil {
		return "", err
	}
	b.lease = le
	b.saveLeases()
	how := ""
	if o == nil {
		how = ", configured already"
	}
	return sprintf("%s via %s, wire server %s%s", le.Prefix, b.link.Name, le.wireServer(b.cfg), how), nil
}

// leaseOfPrimary finds the primary interface: one that leads to the platform
// already, else by DHCP. It gets its name here if it was not certain before.
func (b *boot) leaseOfPrimary(ctx context.Context) (*lease, *offers, error) {
	le, err := b.configuredLease(b.links)
	if le != nil {
		le = b.ownLease(le)
	}
	var o *offers
	if err == nil && le == nil {
		le, o, err = b.acquirePrimary(ctx, b.links, b.knownHostName())
	}
	if err != nil {
		return nil, o, err
	}
	if o != nil {
		b.links = o.links
	}
	if b.link = le.Link; o == nil {
		return le, o, nil
	}
	if b.cfg.Interfaces == "all" {
		le.Metric = metricStep
	} else {
		o.cancel()
	}
	r, err := openRTNL()
	if err != nil {
		return nil, o, err
	}
	defer r.close()
	if le.Link.Name != "eth0" && kernelNamed(le.Link.Name) {
		return le, o, b.nameAll(r, nil)
	}
	return le, o, nil
}

// ownLease is the lease by which an earlier run of this boot has configured an
// interface, and takes over those of the others; else what was given.
func (b *boot) ownLease(found *lease) *lease {
	list, err := b.loadLeases()
	if err != nil || list[0].Prefix != found.Prefix || list[0].Link.Index != found.Link.Index {
		return found
	}
	found.Link.Raised = list[0].Link.Raised
	list[0].Link = found.Link
	b.others = list[1:]
	return list[0]
}

// metricStep is the metric of the primary interface's routes when there are
// others, and how much more each of those has.
const metricStep = 100

// nameAll names all interfaces: the primary one is eth0, then the given MAC
// addresses, then the rest in their order.
func (b *boot) nameAll(r *rtnl, order []string) error {
	all, _, err := b.look(r, b.links)
	if err != nil {
		return err
	}
	order = append([]string{b.link.MAC.String()}, order...)
	ordered := orderBy(b.links, order)
	b.nameLinks(r, all, ordered)
	b.links = ordered
	return nil
}

// configuredLease is what someone else has configured: the candidate that the
// wire server is reached by, else the first that has an address; nil when none
// has one.
func (m *machine) configuredLease(links []*link) (*lease, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	defer r.close()
	addresses, err := r.addresses()
	if err != nil {
		return nil, err
	}
	leads := 0
	if len(addresses) > 0 {
		leads = r.interfaceTo(platformAddresses[0])
	}
	var found *lease
	for _, l := range links {
		p := addresses[l.Index]
		if p.IsValid() && (found == nil || l.Index == leads) {
			found = &lease{Link: l, Configured: true, Prefix: p}
		}
	}
	return found, nil
}
