package sim

import (
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS answers for the names that DHCP requests have published, and for no
// others.
func (p *Platform) serveDNS(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply := p.resolve(buf[:n], from.String()); reply != nil {
			conn.WriteTo(reply, from)
		}
	}
}

func (p *Platform) resolve(query []byte, from string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || m.Response || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	e := Event{Service: "dns", Type: strings.TrimPrefix(q.Type.String(), "Type"), Name: name}
	if vm := p.byAddress(from); vm != nil {
		e.VM = vm.Hostname
	}
	if f := p.Faults.hit("dns", name); f != nil {
		e.Fault = f.Action
		p.Log.Add(e)
		return nil
	}
	p.mu.Lock()
	address, known := p.names[name]
	p.mu.Unlock()
	m.Response, m.Authoritative, m.RecursionAvailable = true, true, true
	m.Answers, m.Authorities, m.Additionals = nil, nil, nil
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		e.Address = address.String()
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 10}, Body: &dnsmessage.AResource{A: address.As4()}}}
	}
	p.Log.Add(e)
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}
