package main

import (
	"errors"
	"strings"
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
	b.leaseMu.Lock()
	defer b.leaseMu.Unlock()
	b.machine.saveLeases(append([]*lease{b.lease}, b.others...))
}

// leaseField is a member of a lease in lease.json and where its value is kept.
type leaseField struct {
	name string
	at   any
}

// fields are the members of a lease as lease.json keeps it. Times are seconds; 0
// is for ever.
func (le *lease) fields() []leaseField {
	return []leaseField{{"interface", &le.Link.Name}, {"index", &le.Link.Index}, {"mac", &le.Link.MAC}, {"driver", &le.Link.Driver}, {"raised", &le.Link.Raised},
		{"secondary", &le.Secondary}, {"configured", &le.Configured}, {"address", &le.Prefix}, {"broadcast", &le.Broadcast}, {"more", &le.More},
		{"server", &le.Server}, {"router", &le.Router}, {"wire_server", &le.WireServer}, {"dns", &le.DNS}, {"domain", &le.Domain}, {"search", &le.Search},
		{"host_name", &le.HostName}, {"mtu", &le.MTU}, {"before_mtu", &le.BeforeMTU}, {"metric", &le.Metric}, {"routes", &le.Routes}, {"added", &le.Added},
		{"since", &le.Since}, {"lifetime", &le.Lifetime}, {"t1", &le.T1}, {"t2", &le.T2}}
}

func (le *lease) json() object {
	var o object
	for _, f := range le.fields() {
		var v any
		switch at := f.at.(type) {
		case *string:
			v = *at
		case *int:
			v = *at
		case *bool:
			v = *at
		case *time.Duration:
			v = int64(*at / time.Second)
		case *time.Time:
			v = at.Unix()
		case *[]string:
			v = *at
		case *[]ipAddr:
			v = textsOf(*at)
		case *[]ipPrefix:
			v = textsOf(*at)
		case *[]route:
			v = textsOf(*at)
		case interface{ String() string }: // an address, a prefix, a MAC address
			text := at.String()
			if strings.HasPrefix(text, "invalid") {
				text = ""
			}
			v = text
		}
		o = append(o, member{f.name, v})
	}
	return o
}

func textsOf[T interface{ String() string }](list []T) []string {
	texts := []string{}
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return texts
}

// leaseFromJSON reads what json has written. What is broken is left empty.
func leaseFromJSON(o object) *lease {
	le := &lease{Link: &link{}}
	for _, f := range le.fields() {
		text := o.text(f.name)
		n, _ := o.get(f.name).(jsonNumber)
		number := n.int()
		items, _ := o.get(f.name).([]any)
		switch at := f.at.(type) {
		case *string:
			*at = text
		case *int:
			*at = int(number)
		case *bool:
			*at = text == "true"
		case *time.Duration:
			*at = time.Duration(number) * time.Second
		case *time.Time:
			*at = time.Unix(int64(number), 0)
		case *mac:
			*at = parseMAC(text)
		case *ipAddr:
			*at, _ = parseAddr(text)
		case *ipPrefix:
			*at, _ = parsePrefix(text)
		}
		for _, item := range items {
			text, _ := item.(string)
			switch at := f.at.(type) {
			case *[]string:
				*at = append(*at, text)
			case *[]ipAddr:
				if a, err := parseAddr(text); err == nil {
					*at = append(*at, a)
				}
			case *[]ipPrefix:
				if p, err := parsePrefix(text); err == nil {
					*at = append(*at, p)
				}
			case *[]route:
				if r, ok := parseRoute(text); ok {
					*at = append(*at, r)
				}
			}
		}
	}
	return le
}

// parseRoute reads what route's String has made.
func parseRoute(text string) (r route, ok bool) {
	f := strings.Fields(text)
	if len(f) != 3 {
		return r, false
	}
	var err error
	if r.Dst, err = parsePrefix(f[0]); err != nil || !r.Dst.Addr().Is4() {
		return r, false
	}
	if f[1] == "via" {
		r.Gateway, err = parseAddr(f[2])
	}
	return r, err == nil
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
