package main

import (
	"errors"
	"net/netip"
	"time"
)

// Where the leases of this boot are kept, primary first, for azprov watch and
// for other software.
const (
	runDir    = "/run/azprov"
	leaseFile = runDir + "/lease.json"
)

// leaseSchema is the version of lease.json; it changes when a member's meaning does.
const leaseSchema = 1

// runtime is the root directory that holds /run: the running system's, which the
// root that is provisioned gets only when it becomes that.
func (m *machine) runtime() (*guest, func(), error) {
	if m.guest.dir == "/" {
		return m.guest, func() {}, nil
	}
	g, err := openGuest("/")
	if err != nil {
		return nil, nil, err
	}
	return g, g.close, nil
}

// writeRun replaces a file below /run.
func (m *machine) writeRun(dir, name string, data []byte, mode fileMode) error {
	g, done, err := m.runtime()
	if err != nil {
		return err
	}
	defer done()
	if err := g.mkdir(dir, 0o755, 0, 0); err != nil {
		return err
	}
	return g.write(dir+"/"+name, data, mode)
}

// bootID tells one boot from another, where /run outlives it.
func (m *machine) bootID() string { return sysAttr(m.proc("sys/kernel/random/boot_id")) }

// saveLeases keeps the leases. Failing is a warning: they can be had again.
func (m *machine) saveLeases(list []*lease) {
	leases := []any{}
	for _, le := range list {
		leases = append(leases, le.json())
	}
	o := object{{"schema", leaseSchema}, {"boot", m.bootID()}, {"leases", leases}}
	if err := m.writeRun(runDir, "lease.json", []byte(indentJSON(o)), rootFile(0o644)); err != nil {
		m.warn("lease", "%v", err)
	}
}

func (b *boot) saveLeases() {
	b.machine.saveLeases(append([]*lease{b.lease}, b.others...))
}

// addrText is an address, "" when there is none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func addrTexts(list []netip.Addr) []string {
	out := []string{}
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func routesJSON(list []route) []any {
	out := []any{}
	for _, r := range list {
		out = append(out, object{{"to", r.Dst.String()}, {"via", addrText(r.Gateway)}})
	}
	return out
}

// json is the lease as lease.json keeps it. Times are seconds; 0 is for ever.
func (le *lease) json() object {
	more := []string{}
	for _, p := range le.More {
		more = append(more, p.String())
	}
	seconds := func(d time.Duration) int64 { return int64(d / time.Second) }
	return object{
		{"interface", le.Link.Name}, {"index", le.Link.Index}, {"mac", le.Link.MAC.String()}, {"driver", le.Link.Driver}, {"raised", le.Link.Raised},
		{"primary", !le.Secondary}, {"dhcp", !le.Configured}, {"address", le.Prefix.String()}, {"broadcast", addrText(le.Broadcast)}, {"more", more},
		{"server", addrText(le.Server)}, {"router", addrText(le.Router)}, {"wire_server", addrText(le.WireServer)}, {"dns", addrTexts(le.DNS)},
		{"domain", le.Domain}, {"search", le.Search}, {"host_name", le.HostName}, {"mtu", le.MTU}, {"before_mtu", le.BeforeMTU}, {"metric", le.Metric},
		{"routes", routesJSON(le.Routes)}, {"added", routesJSON(le.Added)},
		{"since", le.Since.Unix()}, {"lifetime", seconds(le.Lifetime)}, {"t1", seconds(le.T1)}, {"t2", seconds(le.T2)},
	}
}

var errNoLease = errors.New("no lease of this boot")

// loadLeases reads the leases of this boot, primary first. It is errNoLease when
// azprov has left none.
func (m *machine) loadLeases() ([]*lease, error) {
	g, done, err := m.runtime()
	if err != nil {
		return nil, err
	}
	defer done()
	data, err := g.read(leaseFile, 256<<10)
	if err != nil {
		return nil, err
	}
	v, err := decodeJSON(data)
	if err != nil {
		return nil, failure("parse", leaseFile, err)
	}
	o, _ := v.(object)
	if o.text("schema") != "1" || o.text("boot") != m.bootID() {
		return nil, failure("use", leaseFile, errNoLease)
	}
	items, _ := o.get("leases").([]any)
	var list []*lease
	for _, item := range items {
		if o, is := item.(object); is && len(list) < maxOffers {
			list = append(list, leaseFromJSON(o))
		}
	}
	if len(list) == 0 || !list[0].Prefix.IsValid() {
		return nil, failure("use", leaseFile, errNoLease)
	}
	return list, nil
}

// leaseFromJSON reads what json has written. What is broken is left empty.
func leaseFromJSON(o object) *lease {
	number := func(key string) int { f, _ := o.get(key).(float64); return int(f) }
	seconds := func(key string) time.Duration { return time.Duration(number(key)) * time.Second }
	yes := func(key string) bool { v, _ := o.get(key).(bool); return v }
	addr := func(key string) netip.Addr { a, _ := netip.ParseAddr(o.text(key)); return a }
	texts := func(key string) (list []string) {
		items, _ := o.get(key).([]any)
		for _, i := range items {
			if s, is := i.(string); is {
				list = append(list, s)
			}
		}
		return list
	}
	routes := func(key string) (list []route) {
		items, _ := o.get(key).([]any)
		for _, i := range items {
			r, _ := i.(object)
			if dst, err := netip.ParsePrefix(r.text("to")); err == nil && dst.Addr().Is4() {
				via, _ := netip.ParseAddr(r.text("via"))
				list = append(list, route{dst, via})
			}
		}
		return list
	}
	le := &lease{Link: &link{Name: o.text("interface"), Index: number("index"), MAC: parseMAC(o.text("mac")), Driver: o.text("driver"), Raised: yes("raised")},
		Secondary: !yes("primary"), Configured: !yes("dhcp"), Broadcast: addr("broadcast"), Server: addr("server"), Router: addr("router"), WireServer: addr("wire_server"),
		Domain: o.text("domain"), Search: texts("search"), HostName: o.text("host_name"), MTU: number("mtu"), BeforeMTU: number("before_mtu"), Metric: number("metric"),
		Routes: routes("routes"), Added: routes("added"), Since: time.Unix(int64(number("since")), 0), Lifetime: seconds("lifetime"), T1: seconds("t1"), T2: seconds("t2")}
	le.Prefix, _ = netip.ParsePrefix(o.text("address"))
	for _, s := range texts("dns") {
		if a, err := netip.ParseAddr(s); err == nil {
			le.DNS = append(le.DNS, a)
		}
	}
	for _, s := range texts("more") {
		if p, err := netip.ParsePrefix(s); err == nil {
			le.More = append(le.More, p)
		}
	}
	return le
}

// parseMAC reads twelve hexadecimal digits, with or without colons or hyphens
// between; it is all zero when the text is none.
func parseMAC(s string) (m mac) {
	n := 0
	for i := range len(s) {
		c := s[i] | 0x20
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case s[i] == ':' || s[i] == '-':
			continue
		default:
			return mac{}
		}
		if n == 12 {
			return mac{}
		}
		m[n/2] = m[n/2]<<4 | c
		n++
	}
	if n != 12 {
		return mac{}
	}
	return m
}
