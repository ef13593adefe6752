package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// lease is what DHCP, or whoever configured the interface before, has given.
type lease struct {
	Link       *link
	Configured bool         // the interface had an address: no DHCP was done
	Prefix     netip.Prefix // address and prefix length
	Broadcast  netip.Addr
	Server     netip.Addr
	DNS        []netip.Addr
	Domain     string
	Search     []string
	MTU        int // 0: leave as it is
	Routes     []route
	Router     netip.Addr // option 3
	WireServer netip.Addr // option 245
	HostName   string     // the name that was sent, "" if none

	Since            time.Time      // when it was given
	Lifetime, T1, T2 time.Duration  // 0: for ever
	Metric           int            // of its routes, 0 for the only interface
	Secondary        bool           // not the primary interface's
	Added            []route        // the routes that azprov has set
	BeforeMTU        int            // the interface's MTU before, 0 if it was not changed
	More             []netip.Prefix // further addresses that azprov has set
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
	return fmt.Sprintf("%d interfaces: %s", len(list), strings.Join(names, " ")), nil
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
	return fmt.Sprintf("%s via %s, wire server %s%s", le.Prefix, b.link.Name, le.wireServer(b.cfg), how), nil
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

// stepInterfaces names and configures what is not the primary interface, or puts
// it back as it was.
func (b *boot) stepInterfaces(ctx context.Context) (string, error) {
	if b.lease == nil {
		return "", nil
	}
	defer func() {
		if b.stopOffers != nil {
			b.stopOffers()
		}
	}()
	var errs []error
	if b.phase == firstBoot {
		errs = append(errs, b.disableNetRules())
	}
	r, err := openRTNL()
	if err != nil {
		return "", err
	}
	defer r.close()
	if len(b.links) < 2 {
		errs = append(errs, b.moreAddresses(r))
		return "", errors.Join(errs...)
	}
	order := []string{b.link.MAC.String()}
	if b.cfg.Names == namesIMDS && b.imds != nil {
		for _, nic := range b.imds.Interfaces {
			order = append(order, nic.MAC.String())
		}
	}
	errs = append(errs, b.nameAll(r, order[1:]), b.remember(orderFile, order))
	var texts []string
	if b.cfg.Interfaces == "all" {
		texts = b.configureOthers(ctx)
	} else {
		if b.offers != nil {
			b.offers.stop()
		}
		for _, l := range b.links {
			if l.Raised && l.Index != b.link.Index {
				errs = append(errs, r.setUp(l, false))
				l.Raised = false
			}
		}
	}
	errs = append(errs, b.moreAddresses(r))
	return strings.Join(texts, ", "), errors.Join(errs...)
}

// moreAddresses sets the addresses that only the metadata service tells: all of an
// interface but the first, which is DHCP's.
func (b *boot) moreAddresses(r *rtnl) error {
	if !b.cfg.Addresses || b.imds == nil || b.lease.Configured {
		return nil
	}
	var errs []error
	for _, le := range append([]*lease{b.lease}, b.others...) {
		for _, p := range b.imds.nic(le.Link.MAC).IPv4 {
			if p.Addr() == le.Prefix.Addr() {
				continue
			}
			errs = append(errs, b.addMore(r, le, p))
		}
	}
	b.saveLeases()
	return errors.Join(errs...)
}

// addMore sets a further address on the interface of a lease.
func (b *boot) addMore(r *rtnl, le *lease, p netip.Prefix) error {
	metric := le.Metric
	if p.Addr().Is6() {
		metric = 0
	}
	if err := r.addAddress(le.Link, p, netip.Addr{}, metric); err != nil {
		return err
	}
	b.leaseMu.Lock()
	defer b.leaseMu.Unlock()
	if !slices.Contains(le.More, p) {
		le.More = append(le.More, p)
	}
	return nil
}

// stepFollow takes a host name that has been changed in Azure since the VM was
// provisioned.
func (b *boot) stepFollow(ctx context.Context) (string, error) {
	if b.phase == firstBoot || b.imds == nil || b.imds.Spec.HostName == "" {
		return "", nil
	}
	name := b.imds.Spec.HostName
	if short, _, _ := strings.Cut(name, "."); short == b.knownHostName() {
		return "", nil
	}
	if err := b.setHostName(name); err != nil {
		return "", err
	}
	if err := b.publishLater(ctx, name); err != nil {
		return "", err
	}
	return name + ", changed in Azure", nil
}

// othersPatience is how long the other interfaces have for their leases.
const othersPatience = 15 * time.Second

// configureOthers gives every other interface that has no address the lease that
// it is offered, with a metric by its place in the order of names.
func (b *boot) configureOthers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, othersPatience)
	defer cancel()
	o := b.offers
	if o == nil { // the primary interface was configured already
		o = b.newOffers(b.links, b.knownHostName())
	}
	o.links = b.links
	for _, l := range b.links {
		if l.Index != b.link.Index && o.started[l.Index] == nil {
			o.start(ctx, l)
		}
	}
	for o.running > 0 {
		select {
		case a := <-o.answers:
			o.take(a)
		case <-ctx.Done():
			o.stop()
		}
	}
	var texts []string
	for i, l := range b.links {
		for _, le := range o.leases {
			if le.Link.Index != l.Index || l.Index == b.link.Index || le.Configured {
				continue
			}
			le.Secondary, le.Metric = true, metricStep*(i+1)
			if err := b.applyLease(le); err != nil {
				b.warn("interfaces", "%v", err)
				continue
			}
			b.others = append(b.others, le)
			texts = append(texts, le.Prefix.String()+" via "+l.Name)
		}
	}
	b.saveLeases()
	return texts
}
