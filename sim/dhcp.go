package sim

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The DHCP server speaks IP by itself: it answers clients that have no address
// yet, from an address that no route leads to.

type dhcpConn struct {
	fd     int
	index  int
	device string
}

// awaitLink waits until the interface sends: when the guest has just brought up
// its end of a veth pair, the kernel still drops for a moment what ours sends.
func (c *dhcpConn) awaitLink() {
	ifr, err := unix.NewIfreq(c.device)
	if err != nil {
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for range 100 {
		if unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) != nil || ifr.Uint16()&unix.IFF_RUNNING != 0 {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	time.Sleep(200 * time.Microsecond)
}

func (c *dhcpConn) Close() error { return unix.Close(c.fd) }

const etherIP = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in network order

func (p *Platform) listenDHCP(device string) (*dhcpConn, error) {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherIP, Ifindex: nic.Index}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &dhcpConn{fd, nic.Index, device}, nil
}

func (p *Platform) serveDHCP(c *dhcpConn) {
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if err == unix.EINTR || err == unix.ENETDOWN {
			continue
		}
		if err != nil {
			return
		}
		ip := buf[:n]
		head := 0
		if n > 0 {
			head = int(ip[0]&15) * 4
		}
		if n < head+8+240 || head < 20 || ip[9] != 17 || binary.BigEndian.Uint16(ip[head+2:]) != 67 || string(ip[head+8+236:head+8+240]) != "\x63\x82\x53\x63" {
			continue
		}
		if reply := p.answerDHCP(ip[head+8:], [4]byte(ip[16:20]) != [4]byte{255, 255, 255, 255}); reply != nil {
			to := &unix.SockaddrLinklayer{Protocol: etherIP, Ifindex: c.index, Halen: 6}
			copy(to.Addr[:], ip[head+8+28:head+8+34])
			c.awaitLink()
			unix.Sendto(c.fd, reply, 0, to)
		}
	}
}

var dhcpNames = map[byte]string{1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 4: "DECLINE", 5: "ACK", 6: "NAK", 7: "RELEASE", 8: "INFORM"}

// answerDHCP returns the IP packet that answers a BOOTP message, or nil.
func (p *Platform) answerDHCP(b []byte, unicast bool) []byte {
	options := map[byte][]byte{}
	for o := b[240:]; len(o) > 1 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2+int(o[1]) {
			return nil
		}
		options[o[0]] = append(options[o[0]], o[2:2+o[1]]...)
		o = o[2+o[1]:]
	}
	if b[0] != 1 || len(options[53]) != 1 {
		return nil
	}
	kind := options[53][0]
	vm := p.byMAC(net.HardwareAddr(b[28:34]))
	e := Event{Service: "dhcp", Type: dhcpNames[kind], Name: string(options[12])}
	if unicast {
		e.Text = "unicast"
	}
	if name := options[81]; len(name) > 3 {
		e.FQDN = string(name[3:])
		if name[0]&4 != 0 { // in DNS wire form
			var labels []string
			for b := name[3:]; len(b) > 0 && b[0] > 0 && len(b) > int(b[0]); b = b[1+b[0]:] {
				labels = append(labels, string(b[1:1+b[0]]))
			}
			e.FQDN = strings.Join(labels, ".")
		}
		if e.Name == "" {
			e.Name, _, _ = strings.Cut(e.FQDN, ".")
		}
	}
	if len(options[50]) == 4 {
		e.Address = netip.AddrFrom4([4]byte(options[50])).String()
	}
	if vm == nil {
		e.Text = "no VM with this MAC address"
		p.Log.Add(e)
		return nil
	}
	e.VM = vm.Hostname
	if vm.Silent {
		e.Fault = "silent"
		p.Log.Add(e)
		return nil
	}
	reply := map[byte]byte{1: 2, 3: 5, 8: 5}[kind]
	if reply == 0 {
		p.Log.Add(e)
		return nil
	}
	asked := e.Address
	if ciaddr := netip.AddrFrom4([4]byte(b[12:16])); !ciaddr.IsUnspecified() {
		asked = ciaddr.String()
	}
	if kind == 3 && asked != "" && asked != vm.address().Addr().String() {
		reply = 6
	}
	f := p.Faults.hit("dhcp", e.Type)
	if f != nil {
		e.Fault = f.Action
		if f.Action == "nak" {
			reply = 6
		}
	}
	if reply == 5 && e.Name != "" && e.Name != "localhost" && (f == nil || f.Action != "drop") {
		p.register(vm, e.Name)
	}
	p.Log.Add(e)
	if f != nil && f.Action == "drop" {
		return nil
	}
	msg := vm.reply(b, reply)
	if f != nil {
		switch f.Action {
		case "garbage":
			for i := range msg[240:] {
				msg[240+i] = byte(i*7 + 13)
			}
		case "wrong-xid":
			msg[4] ^= 0xff
		case "wrong-mac":
			msg[33] ^= 0xff
		}
	}
	packet := ipPacket(msg, reply == 6 || binary.BigEndian.Uint16(b[10:])&0x8000 != 0, vm)
	if f != nil && f.Action == "bad-checksum" {
		packet[26] ^= 0x55
	}
	return packet
}

// reply is the BOOTP answer in the order of options that Azure's has.
func (vm *VM) reply(b []byte, kind byte) []byte {
	m := make([]byte, 240, 400)
	copy(m, b[:240])
	m[0] = 2
	clear(m[8:28])
	copy(m[10:12], b[10:12])
	clear(m[44:236])
	server := netip.MustParseAddr(WireServerAddress).As4()
	copy(m[20:], server[:])
	copy(m[44:], "DSM000000000000")
	add := func(code byte, v ...byte) { m = append(append(m, code, byte(len(v))), v...) }
	if kind == 6 {
		add(53, 6)
		add(54, server[:]...)
		add(56, []byte("no such address here")...)
		return append(m, 255)
	}
	p := vm.address()
	own := p.Addr().As4()
	copy(m[16:], own[:])
	mask := uint32(0)
	if p.Bits() > 0 {
		mask = ^uint32(0) << (32 - p.Bits())
	}
	add(1, binary.BigEndian.AppendUint32(nil, mask)...)
	gw := netip.MustParseAddr(vm.Gateway).As4()
	add(3, gw[:]...)
	var dns []byte
	for _, s := range vm.DNS {
		if a, err := netip.ParseAddr(s); err == nil {
			four := a.As4()
			dns = append(dns, four[:]...)
		}
	}
	if len(dns) > 0 {
		add(6, dns...)
	}
	add(15, []byte(vm.Domain)...)
	if vm.MTU > 0 {
		add(26, byte(vm.MTU>>8), byte(vm.MTU))
	}
	lease := vm.LeaseSeconds
	if lease == 0 {
		lease = 0xffffffff
	}
	seconds := binary.BigEndian.AppendUint32(nil, lease)
	add(51, seconds...)
	add(53, kind)
	add(54, server[:]...)
	if vm.LeaseSeconds == 0 {
		add(58, seconds...)
		add(59, seconds...)
	}
	if !vm.NoOption245 {
		add(245, server[:]...)
	}
	if vm.RouteOption == 121 || vm.RouteOption == 249 {
		metadata := netip.MustParseAddr(MetadataAddress).As4()
		routes := append([]byte{0}, gw[:]...)
		for _, host := range [][4]byte{server, metadata} {
			routes = append(append(append(routes, 32), host[:]...), gw[:]...)
		}
		add(byte(vm.RouteOption), routes...)
	}
	return append(m, 255)
}

// ipPacket wraps an answer, to the client's new address or to all.
func ipPacket(msg []byte, broadcast bool, vm *VM) []byte {
	b := make([]byte, 28, 28+len(msg))
	b[0], b[8], b[9] = 0x45, 128, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(msg)))
	src, dst := netip.MustParseAddr(WireServerAddress).As4(), vm.address().Addr().As4()
	if broadcast {
		dst = [4]byte{255, 255, 255, 255}
	}
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^checksum(0, b[:20]))
	b[21], b[23] = 67, 68
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(msg)))
	b = append(b, msg...)
	sum := ^checksum(uint32(checksum(uint32(8+len(msg))+17, b[12:20])), b[20:])
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[26:], sum)
	return b
}

func checksum(sum uint32, b []byte) uint16 {
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
