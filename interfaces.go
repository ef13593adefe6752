package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

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
func (b *boot) addMore(r *rtnl, le *lease, p ipPrefix) error {
	metric := le.Metric
	if p.Addr().Is6() {
		metric = 0
	}
	if err := r.addAddress(le.Link, p, ipAddr{}, metric); err != nil {
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
