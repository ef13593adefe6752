package main

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// platformAddresses are the platform's two fixed addresses: wire server and
// metadata service.
var platformAddresses = [...]ipAddr{addrFrom4([4]byte{168, 63, 129, 16}), addrFrom4([4]byte{169, 254, 169, 254})}

// applyLease sets MTU, address and routes, and notes in the lease what it has
// set. What is there already stays, so that it can be called again. A route to
// 255.255.255.255 is not among it: DHCP goes by packet sockets, which need none.
func (m *machine) applyLease(le *lease) error {
	if le.Configured {
		return nil
	}
	r, err := openRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	if le.MTU != 0 && le.MTU != le.Link.MTU {
		if err := r.setMTU(le.Link, le.MTU); err != nil {
			m.warn("lease", "%v", err)
		} else if le.BeforeMTU == 0 {
			le.BeforeMTU = le.Link.MTU
		}
	}
	if err := r.addAddress(le.Link, le.Prefix, le.broadcast(), le.Metric); err != nil {
		return err
	}
	for _, rt := range le.allRoutes() {
		added, err := r.addRoute(le, rt)
		if err != nil {
			// One bad route of many is no reason to give up: what matters is
			// whether the wire server answers.
			m.warn("lease", "%v", err)
		}
		if added && !slices.Contains(le.Added, rt) {
			le.Added = append(le.Added, rt)
		}
	}
	return nil
}

// withdraw undoes applyLease, the last first. What was there before stays; the
// interface goes down again if azprov has brought it up and down says so.
func (m *machine) withdraw(le *lease, down bool) error {
	if le.Configured {
		return nil
	}
	r, err := openRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	var errs []error
	for i := len(le.Added) - 1; i >= 0; i-- {
		errs = append(errs, r.removeRoute(le, le.Added[i]))
	}
	for _, p := range append(le.More, le.Prefix) {
		errs = append(errs, r.removeAddress(le.Link, p))
	}
	if le.BeforeMTU != 0 {
		errs = append(errs, r.setMTU(le.Link, le.BeforeMTU))
	}
	if down && le.Link.Raised {
		errs = append(errs, r.setUp(le.Link, false))
	}
	le.Added, le.More, le.BeforeMTU = nil, nil, 0
	return errors.Join(errs...)
}

// broadcast is the broadcast address, the last of the prefix unless the lease
// names another; none in prefixes without room for one.
func (le *lease) broadcast() ipAddr {
	if !le.Broadcast.IsValid() && le.Prefix.Bits() < 31 {
		return lastAddress(le.Prefix)
	}
	return le.Broadcast
}

// gateway is the gateway of the default route, if there is one.
func (le *lease) gateway() ipAddr {
	for _, r := range le.Routes {
		if r.Dst.Bits() == 0 {
			return r.Gateway
		}
	}
	return ipAddr{}
}

// allRoutes returns the lease's routes, those on the link first since gateways
// may need them, and host routes to the platform where nothing else leads there.
func (le *lease) allRoutes() []route {
	list := slices.Clone(le.Routes)
	for _, a := range platformAddresses {
		if le.Secondary {
			break
		}
		covered := le.Prefix.Contains(a) || slices.ContainsFunc(list, func(r route) bool { return r.Dst.Contains(a) })
		if !covered {
			list = append(list, route{prefixFrom(a, 32), le.Router})
		}
	}
	sortFew(list, func(a, b route) bool { return !a.Gateway.IsValid() && b.Gateway.IsValid() })
	return list
}

// lastAddress is the broadcast address of a prefix.
func lastAddress(p ipPrefix) ipAddr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return addrFrom4(b)
}

// resolvMark tells azprov prepare whose resolv.conf it is.
const resolvMark = "Written by azprov from the DHCP lease."

// writeResolvConf writes name servers and search list of a lease. A link, which
// belongs to a resolver of the image, is left alone.
func (m *machine) writeResolvConf(le *lease) error {
	if !m.cfg.ResolvConf || len(le.DNS) == 0 {
		return nil
	}
	dir, err := m.guest.resolve("/etc")
	if err != nil {
		return err
	}
	info, err := m.guest.lstat(path.Join(dir, "resolv.conf"))
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# " + resolvMark + "\n")
	search := le.Search
	if len(search) == 0 && le.Domain != "" {
		search = []string{le.Domain}
	}
	if len(search) > 0 {
		fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, a := range le.DNS[:min(len(le.DNS), 3)] { // the C library reads three
		fprintf(&b, "nameserver %s\n", a)
	}
	err = m.guest.write("/etc/resolv.conf", []byte(b.String()), keepFile(0o644))
	if errors.Is(err, unix.EBUSY) { // a bind mount, as in containers
		return nil
	}
	return err
}
