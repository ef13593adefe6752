package sim

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// serveIPv6 is the router and the DHCPv6 server of an interface: advertisements
// with the M flag, and the VM's address to who asks for one.
func (p *Platform) serveIPv6(vm *VM, device string) error {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	raw, err := icmp.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	router := raw.IPv6PacketConn()
	router.SetMulticastInterface(nic)
	router.SetMulticastHopLimit(255)
	router.SetHopLimit(255)
	if err := router.JoinGroup(nic, &net.IPAddr{IP: net.ParseIP("ff02::2")}); err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp6", "[::]:547")
	if err != nil {
		return err
	}
	if err := ipv6.NewPacketConn(conn).JoinGroup(nic, &net.UDPAddr{IP: net.ParseIP("ff02::1:2")}); err != nil {
		return err
	}
	// type(1) code(1) checksum(2) hop-limit(1) flags(1) lifetime(2) reachable(4)
	// retransmit(4), then the source's link-layer address (RFC 4861, 4.2).
	ra := append([]byte{134, 0, 0, 0, 64, 0x80, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, nic.HardwareAddr...)
	advertise := func() {
		router.WriteTo(ra, nil, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: device})
	}
	go func() {
		for range time.Tick(2 * time.Second) {
			advertise()
		}
	}()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, _, _, err := router.ReadFrom(buf)
			if err != nil {
				return
			}
			if n > 0 && buf[0] == 133 { // a solicitation
				advertise()
			}
		}
	}()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := p.answerDHCP6(vm, nic, buf[:n]); reply != nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
	return nil
}

var dhcp6Names = map[byte]string{1: "SOLICIT", 3: "REQUEST", 5: "RENEW", 6: "REBIND", 8: "RELEASE"}

// answerDHCP6 answers SOLICIT with ADVERTISE, REQUEST, RENEW and REBIND with REPLY
// (RFC 8415).
func (p *Platform) answerDHCP6(vm *VM, nic *net.Interface, b []byte) []byte {
	if len(b) < 4 {
		return nil
	}
	options := map[uint16][]byte{}
	for o := b[4:]; len(o) >= 4; {
		n := 4 + int(binary.BigEndian.Uint16(o[2:]))
		if n > len(o) {
			return nil
		}
		options[binary.BigEndian.Uint16(o)] = o[4:n]
		o = o[n:]
	}
	e := Event{Service: "dhcp6", VM: vm.Hostname, Type: dhcp6Names[b[0]], Address: vm.IPv6}
	kind := map[byte]byte{1: 2, 3: 7, 5: 7, 6: 7}[b[0]]
	if f := p.Faults.hit("dhcp6", e.Type); f != nil {
		e.Fault = f.Action
		kind = 0
	}
	p.Log.Add(e)
	address, err := netip.ParseAddr(vm.IPv6)
	if kind == 0 || err != nil || len(options[3]) < 12 || len(options[1]) == 0 {
		return nil
	}
	reply := append([]byte{kind}, b[1:4]...)
	add := func(to []byte, code uint16, v []byte) []byte {
		to = binary.BigEndian.AppendUint16(to, code)
		return append(binary.BigEndian.AppendUint16(to, uint16(len(v))), v...)
	}
	reply = add(reply, 1, options[1])
	reply = add(reply, 2, append([]byte{0, 3, 0, 1}, nic.HardwareAddr...))
	forever := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ia := append(append([]byte{}, options[3][:4]...), forever...)
	return add(reply, 3, add(ia, 5, append(address.AsSlice(), forever...)))
}
