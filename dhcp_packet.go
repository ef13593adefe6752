package main

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"
)

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string {
	return sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// DHCP message types (RFC 2132, 9.6).
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
)

// DHCP options by the names of their registry.
const (
	optMask, optRouter, optDNS, optHostName, optDomain    = 1, 3, 6, 12, 15
	optMTU, optBroadcast, optStaticRoute, optNTP          = 26, 28, 33, 42
	optRequestedIP, optLeaseTime, optOverload, optType    = 50, 51, 52, 53
	optServerID, optParameters, optMessage, optMaxSize    = 54, 55, 56, 57
	optT1, optT2, optVendorClass, optClientID, optSearch  = 58, 59, 60, 61, 119
	optClasslessRoutes, optWireServer, optMicrosoftRoutes = 121, 245, 249
	optFQDN, optPad, optEnd                               = 81, 0, 255
)

// dhcpParameters is what every request asks for.
var dhcpParameters = [...]byte{optMask, optRouter, optDNS, optHostName, optDomain, optMTU, optBroadcast, optStaticRoute, optNTP,
	optLeaseTime, optServerID, optT1, optT2, optSearch, optClasslessRoutes, optWireServer, optMicrosoftRoutes}

// dhcpMessage is a BOOTP message with DHCP options:
//
//	op(1) htype(1) hlen(1) hops(1) xid(4) secs(2) flags(2)
//	ciaddr(4) yiaddr(4) siaddr(4) giaddr(4) chaddr(16)
//	sname(64) file(128) cookie(4) options
//
// (RFC 2131, figure 1). Options that came in several instances are joined (RFC 3396).
type dhcpMessage struct {
	Op                              byte
	XID                             uint32
	Secs, Flags                     uint16
	Client, Your, NextServer, Relay ipAddr
	MAC                             mac
	Options                         map[byte][]byte
}

const (
	bootpSize     = 240 // with the cookie
	minDHCPSize   = 300 // what old relays and servers want
	maxDHCPSize   = 1500
	maxDHCPOption = 2048 // of one option's joined instances
)

var (
	dhcpCookie   = [4]byte{0x63, 0x82, 0x53, 0x63}
	errDHCPShort = errors.New("dhcp: the packet is too short")
)

// encode returns the message in wire form. Option data are at most 255 bytes;
// the order is fixed, the message type comes first.
func (d *dhcpMessage) encode() []byte {
	b := make([]byte, bootpSize, minDHCPSize)
	b[0], b[1], b[2] = d.Op, 1, 6
	binary.BigEndian.PutUint32(b[4:], d.XID)
	binary.BigEndian.PutUint16(b[8:], d.Secs)
	binary.BigEndian.PutUint16(b[10:], d.Flags)
	for i, a := range []ipAddr{d.Client, d.Your, d.NextServer, d.Relay} {
		if a.Is4() {
			four := a.As4()
			copy(b[12+4*i:], four[:])
		}
	}
	copy(b[28:], d.MAC[:])
	copy(b[236:], dhcpCookie[:])
	for _, code := range []byte{optType, optClientID, optRequestedIP, optServerID, optHostName, optFQDN, optMaxSize, optVendorClass, optParameters} {
		if v, has := d.Options[code]; has {
			b = append(append(b, code, byte(len(v))), v...)
		}
	}
	b = append(b, optEnd)
	for len(b) < minDHCPSize {
		b = append(b, optPad)
	}
	return b
}

// decodeDHCP reads a BOOTP message with the DHCP cookie.
func decodeDHCP(b []byte) (*dhcpMessage, error) {
	if len(b) < bootpSize {
		return nil, errDHCPShort
	}
	if len(b) > 1<<16 {
		return nil, errors.New("dhcp: the packet is too long")
	}
	if [4]byte(b[236:240]) != dhcpCookie {
		return nil, errors.New("dhcp: no DHCP cookie")
	}
	if b[1] != 1 || b[2] != 6 {
		return nil, errors.New("dhcp: not for Ethernet")
	}
	addr := func(i int) ipAddr { return addrFrom4([4]byte(b[i : i+4])) }
	d := &dhcpMessage{Op: b[0], XID: binary.BigEndian.Uint32(b[4:]), Secs: binary.BigEndian.Uint16(b[8:]), Flags: binary.BigEndian.Uint16(b[10:]),
		Client: addr(12), Your: addr(16), NextServer: addr(20), Relay: addr(24), MAC: mac(b[28:34]), Options: map[byte][]byte{}}
	if err := d.readOptions(b[bootpSize:]); err != nil {
		return nil, err
	}
	if o := d.Options[optOverload]; len(o) == 1 {
		if o[0]&1 != 0 {
			if err := d.readOptions(b[108:236]); err != nil {
				return nil, err
			}
		}
		if o[0]&2 != 0 {
			if err := d.readOptions(b[44:108]); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func (d *dhcpMessage) readOptions(b []byte) error {
	for len(b) > 0 && b[0] != optEnd {
		if b[0] == optPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return errorf("dhcp: option %d is longer than the packet", b[0])
		}
		n := 2 + int(b[1])
		value := append(d.Options[b[0]], b[2:n]...)
		if len(value) > maxDHCPOption {
			return errorf("dhcp: option %d is longer than %d bytes", b[0], maxDHCPOption)
		}
		d.Options[b[0]] = value
		b = b[n:]
	}
	return nil
}

// kind is the message type, 0 when there is none.
func (d *dhcpMessage) kind() byte {
	if v := d.Options[optType]; len(v) == 1 {
		return v[0]
	}
	return 0
}

// addrs returns an option's addresses; bytes after the last whole one are ignored.
func (d *dhcpMessage) addrs(code byte) []ipAddr {
	var list []ipAddr
	for v := d.Options[code]; len(v) >= 4; v = v[4:] {
		list = append(list, addrFrom4([4]byte(v[:4])))
	}
	return list
}

func (d *dhcpMessage) addr(code byte) ipAddr {
	if list := d.addrs(code); len(list) > 0 {
		return list[0]
	}
	return ipAddr{}
}

// duration returns an option of seconds; infinite and absent are 0.
func (d *dhcpMessage) duration(code byte) time.Duration {
	if v := d.Options[code]; len(v) == 4 {
		if n := binary.BigEndian.Uint32(v); n != 0xffffffff {
			return time.Duration(n) * time.Second
		}
	}
	return 0
}

// encodeFQDN is the client FQDN option (RFC 4702): flags S, the server is to
// update DNS, and E, the name is in DNS wire form; two bytes of no meaning; the name.
func encodeFQDN(name string) []byte {
	b := []byte{0x05, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) > 63 || len(b)+len(label) > 250 {
			return b // a name that is cut is not fully qualified: it has no end
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// leaseTimes returns how long a lease is good for, when to ask its server for
// more (T1) and when to ask any (T2); all 0 for ever. Times that are missing or
// make no sense are RFC 2131's: a half and seven eighths.
func (d *dhcpMessage) leaseTimes() (life, t1, t2 time.Duration) {
	if life = d.duration(optLeaseTime); life == 0 {
		return 0, 0, 0
	}
	life = max(life, shortestLease)
	if t2 = d.duration(optT2); t2 <= 0 || t2 >= life {
		t2 = life / 8 * 7
	}
	if t1 = d.duration(optT1); t1 <= 0 || t1 >= t2 {
		t1 = min(life/2, t2)
	}
	return life, t1, t2
}

// shortestLease keeps a server from making us ask without pause.
const shortestLease = 10 * time.Second

// text returns an option as a host or domain name, "" when it is none.
func (d *dhcpMessage) text(code byte) string {
	s := strings.TrimRight(string(d.Options[code]), "\x00")
	if !validDNSName(strings.TrimSuffix(s, ".")) {
		return ""
	}
	return s
}

// validDNSName says whether a name may stand in resolv.conf: letters, digits,
// hyphen, underscore and dots, at most 253 bytes.
func validDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// mtu returns option 26, 0 when it is absent or below the 576 of RFC 791.
func (d *dhcpMessage) mtu() int {
	if v := d.Options[optMTU]; len(v) == 2 {
		if n := int(binary.BigEndian.Uint16(v)); n >= 576 {
			return n
		}
	}
	return 0
}

// prefixLength returns the mask's length; ok is false when it is no mask.
func (d *dhcpMessage) prefixLength() (int, bool) {
	v := d.Options[optMask]
	if len(v) != 4 {
		return 0, false
	}
	mask := binary.BigEndian.Uint32(v)
	n := 0
	for ; n < 32 && mask&(1<<31) != 0; n++ {
		mask <<= 1
	}
	return n, mask == 0 && n > 0
}

// search returns the domain search list (RFC 3397): names in DNS form, which
// may point back into the option's own bytes.
func (d *dhcpMessage) search() []string {
	v := d.Options[optSearch]
	var names []string
	for pos := 0; pos < len(v) && len(names) < 16; {
		name, next := dnsName(v, pos)
		if next <= pos {
			break
		}
		pos = next
		if validDNSName(name) {
			names = append(names, name)
		}
	}
	return names
}

// dnsName reads the name at pos and returns it with the position after it, 0
// when it is broken. A pointer may only lead backwards, so that names end.
func dnsName(b []byte, pos int) (string, int) {
	var labels []string
	next, limit := 0, len(b)
	for pos < limit {
		n := int(b[pos])
		switch {
		case n == 0:
			if next == 0 {
				next = pos + 1
			}
			return strings.Join(labels, "."), next
		case n&0xc0 == 0xc0 && pos+1 < len(b):
			target := n&0x3f<<8 | int(b[pos+1])
			if next == 0 {
				next = pos + 2
			}
			if target >= pos {
				return "", 0
			}
			limit, pos = pos, target
		case n < 64 && pos+1+n <= len(b) && len(labels) < 128:
			labels = append(labels, string(b[pos+1:pos+1+n]))
			pos += 1 + n
		default:
			return "", 0
		}
	}
	return "", 0
}

// route is a destination and how to get there; an invalid gateway means that
// it is on the link.
type route struct {
	Dst     ipPrefix
	Gateway ipAddr
}

func (r route) String() string {
	if !r.Gateway.IsValid() {
		return r.Dst.String() + " on link"
	}
	return r.Dst.String() + " via " + r.Gateway.String()
}

// classless reads routes in the form of RFC 3442: prefix length, its significant
// bytes, gateway. It returns those before the first broken one, and whether all
// were sound.
func classless(b []byte) (list []route, sound bool) {
	for len(b) > 0 && len(list) < 256 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return list, false
		}
		var dst, gw [4]byte
		copy(dst[:], b[1:1+n])
		copy(gw[:], b[1+n:])
		r := route{Dst: prefixFrom(addrFrom4(dst), bits).Masked()}
		if gw != [4]byte{} {
			r.Gateway = addrFrom4(gw)
		}
		list = append(list, r)
		b = b[1+n+4:]
	}
	return list, len(b) == 0
}

var defaultRoute = prefixFrom(addrFrom4([4]byte{}), 0)

// routes returns what the message asks for: option 121 alone (RFC 3442), else
// option 249, with the router as default route if it has none, else options 33
// and 3.
func (d *dhcpMessage) routes() []route {
	if v, has := d.Options[optClasslessRoutes]; has {
		if list, _ := classless(v); len(list) > 0 {
			return list
		}
	}
	list, _ := classless(d.Options[optMicrosoftRoutes])
	if len(list) == 0 {
		pairs := d.addrs(optStaticRoute)
		for i := 0; i+1 < len(pairs) && i < 512; i += 2 {
			if !pairs[i].IsUnspecified() {
				list = append(list, route{prefixFrom(pairs[i], 32), pairs[i+1]})
			}
		}
	}
	for _, r := range list {
		if r.Dst.Bits() == 0 {
			return list
		}
	}
	if gw := d.addr(optRouter); gw.IsValid() && !gw.IsUnspecified() {
		list = append(list, route{defaultRoute, gw})
	}
	return list
}

// parseDHCP reads a captured message: the bare payload, or with IPv4 and UDP
// headers, or as a whole Ethernet frame.
func parseDHCP(b []byte) (*dhcpMessage, error) {
	if d, err := decodeDHCP(b); err == nil {
		return d, nil
	}
	for _, skip := range []int{0, 14} {
		if len(b) > skip+28 && b[skip]>>4 == 4 {
			if payload, err := udpPayload(b[skip:], 0, false); err == nil {
				return decodeDHCP(payload)
			}
		}
	}
	return decodeDHCP(b)
}

// udpPayload checks an IPv4 packet for the UDP port (0: any) and returns what it
// carries. A UDP checksum that is left to the network card is not judged.
func udpPayload(b []byte, port uint16, unchecked bool) ([]byte, error) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, errDHCPShort
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || total < head+8 || total > len(b) {
		return nil, errDHCPShort
	}
	switch {
	case b[9] != 17:
		return nil, errors.New("dhcp: not UDP")
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		return nil, errors.New("dhcp: a fragment")
	case onesSum(0, b[:head]) != 0xffff:
		return nil, errors.New("dhcp: wrong IP checksum")
	}
	udp := b[head:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if size < 8 || size > len(udp) {
		return nil, errDHCPShort
	}
	udp = udp[:size]
	if port != 0 && binary.BigEndian.Uint16(udp[2:]) != port {
		return nil, errors.New("dhcp: another port")
	}
	if binary.BigEndian.Uint16(udp[6:]) != 0 && !unchecked {
		sum := onesSum(uint32(size)+17, b[12:20])
		if onesSum(uint32(sum), udp) != 0xffff {
			return nil, errors.New("dhcp: wrong UDP checksum")
		}
	}
	return udp[8:], nil
}

// onesSum adds 16-bit words in ones' complement (RFC 1071).
func onesSum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// udpPacket puts IPv4 and UDP headers before a payload, from port 68 to 67.
func udpPacket(src, dst ipAddr, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	s, d := src.As4(), dst.As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ^onesSum(0, b[:20]))
	b[21], b[23] = 68, 67
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	b = append(b, payload...)
	sum := onesSum(uint32(8+len(payload))+17, b[12:20])
	check := ^onesSum(uint32(sum), b[20:])
	if check == 0 { // 0 would mean that there is none
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[26:], check)
	return b
}

// json is what the message is and, of an answer, the lease that it gives, in the
// form of lease.json.
func (d *dhcpMessage) json() object {
	codes := []any{}
	for code := 1; code < 255; code++ {
		if _, has := d.Options[byte(code)]; has {
			codes = append(codes, code)
		}
	}
	kinds := [...]string{1: "discover", "offer", "request", "decline", "ack", "nak", "release", "inform"}
	kind := ""
	if k := int(d.kind()); k < len(kinds) {
		kind = kinds[k]
	}
	le := d.lease(&link{MAC: d.MAC}, d.text(optHostName))
	return append(object{{"type", kind}, {"xid", sprintf("%08x", d.XID)}, {"options", codes}}, le.json()...)
}

// lease is what an answer gives to an interface that has sent a host name.
func (d *dhcpMessage) lease(l *link, hostName string) *lease {
	bits, _ := d.prefixLength()
	life, t1, t2 := d.leaseTimes()
	return &lease{Link: l, Prefix: prefixFrom(d.Your, bits), Broadcast: d.addr(optBroadcast), Server: d.addr(optServerID),
		DNS: d.addrs(optDNS), Domain: d.text(optDomain), Search: d.search(), MTU: d.mtu(), Routes: d.routes(), Router: d.addr(optRouter),
		WireServer: d.addr(optWireServer), HostName: hostName, Since: time.Now(), Lifetime: life, T1: t1, T2: t2}
}
