package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"time"
)

// publishPatience is how long the answer to a request on a lease is waited for.
// Azure's comes in milliseconds; Ready waits for it, so that DNS knows the name.
const publishPatience = 15 * time.Second

// renew asks for more of a lease that is in use, with the link and the address as
// they are, by a REQUEST that also publishes the host name: from the server of
// the lease, or with anyone from any. It is errNak when the lease is no longer
// good. Option 81 goes with a name that has a domain, and only with that: Azure
// takes the name of option 12.
func (m *machine) renew(ctx context.Context, le *lease, hostName string, anyone bool) error {
	d, err := openDHCP(le.Link, hostName)
	if err != nil {
		return err
	}
	defer d.close()
	if !anyone {
		d.renewal = le.Server
	}
	d.xid = rand.Uint32()
	msg := d.message(dhcpRequest)
	msg.Client = le.Prefix.Addr()
	for {
		ack, err := d.ask(ctx, msg, le.Prefix.Addr(), dhcpRequests)
		if errors.Is(err, errNoAck) {
			continue
		}
		if err == nil && ack.kind() == dhcpNak {
			d.nakText = oneLine(string(ack.Options[optMessage]), 100)
			err = errNak
		}
		if err != nil {
			return d.failure(err)
		}
		if ack.Your == le.Prefix.Addr() {
			le.Since = time.Now()
			le.Lifetime, le.T1, le.T2 = ack.leaseTimes()
		}
		le.HostName = d.hostName
		return nil
	}
}

// publish makes a host name known to DNS by a request on the lease.
func (m *machine) publish(ctx context.Context, le *lease, hostName string) error {
	ctx, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	return m.renew(ctx, le, hostName, true)
}

// publishLater publishes a name on the lease that this run has got.
func (b *boot) publishLater(ctx context.Context, name string) error {
	b.leaseMu.Lock()
	le := *b.lease
	b.leaseMu.Unlock()
	if err := b.publish(ctx, &le, name); err != nil {
		return err
	}
	b.leaseMu.Lock()
	b.lease.HostName, b.lease.Since, b.lease.Lifetime, b.lease.T1, b.lease.T2 = le.HostName, le.Since, le.Lifetime, le.T1, le.T2
	b.leaseMu.Unlock()
	if !le.Configured {
		b.saveLeases()
	}
	return nil
}

// currentLeases are the leases of this boot; without those, what whoever
// configured the network has given the primary interface.
func (m *machine) currentLeases() ([]*lease, error) {
	list, err := m.loadLeases()
	if err == nil || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errNoLease) {
		return list, err
	}
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	defer r.close()
	_, links, err := m.look(r, nil)
	if err != nil {
		return nil, err
	}
	le, err := m.configuredLease(links)
	if err != nil {
		return nil, err
	}
	if le == nil {
		return nil, failure("find", "the primary interface", errors.New("none has an address"))
	}
	return []*lease{le}, nil
}

// setHostName renames the running VM: kernel and files.
func (m *machine) setHostName(name string) error {
	if _, err := m.applyHostname(name); err != nil {
		return err
	}
	if !m.guest.isDir(waagentDir) {
		return nil
	}
	return m.guest.write(waagentDir+"/published_hostname", []byte(name), rootFile(0o600))
}

// publishName makes a new host name known to DNS on the lease of this boot.
func (m *machine) publishName(ctx context.Context, name string) error {
	list, err := m.currentLeases()
	if err == nil {
		err = m.publish(ctx, list[0], name)
	}
	if err == nil && !list[0].Configured {
		m.saveLeases(list)
	}
	return err
}

// renameCommand is azprov hostname.
func renameCommand(m *machine, name string, began time.Time) int {
	b, unlock, code := prepareRun(m)
	if b == nil {
		return code
	}
	defer unlock()
	if err := errors.Join(m.setHostName(name), m.guest.settle()); err != nil {
		m.log.fail("hostname", err.Error())
		return exitFailed
	}
	if err := m.publishName(context.Background(), name); err != nil {
		m.log.fail("hostname", name+" is set, but not published: "+err.Error())
		return exitUnacknowledged
	}
	m.log.step("hostname", name+", published", time.Since(began))
	return exitOK
}
