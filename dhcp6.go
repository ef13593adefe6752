package main

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DHCPv6 message types and options (RFC 8415, 7.3 and 21).
const (
	dhcp6Solicit, dhcp6Advertise, dhcp6Request, dhcp6Reply = 1, 2, 3, 7

	opt6ClientID, opt6ServerID, opt6IANA, opt6IAAddr = 1, 2, 3, 5
	opt6Elapsed, opt6Status                          = 8, 13
)

// maxDHCP6 is the largest message that is taken, and how much of one option.
const maxDHCP6 = 1500

// dhcp6Message is a message of a client or server:
//
//	msg-type(1) transaction-id(3) { option-code(2) option-len(2) data }...
//
// (RFC 8415, 8). Of an option that comes several times the first counts.
type dhcp6Message struct {
	Kind    byte
	XID     [3]byte
	Options map[uint16][]byte
}

var errDHCP6 = errors.New("dhcpv6: broken message")

func decodeDHCP6(b []byte) (*dhcp6Message, error) {
	if len(b) < 4 || len(b) > maxDHCP6 {
		return nil, errDHCP6
	}
	m := &dhcp6Message{Kind: b[0], XID: [3]byte(b[1:4])}
	var err error
	m.Options, err = options6(b[4:])
	return m, err
}

// options6 reads a list of options, which stands in messages and in options.
func options6(b []byte) (map[uint16][]byte, error) {
	list := map[uint16][]byte{}
	for len(b) > 0 {
		if len(b) < 4 || len(b)-4 < int(binary.BigEndian.Uint16(b[2:])) {
			return nil, errDHCP6
		}
		code, end := binary.BigEndian.Uint16(b), 4+int(binary.BigEndian.Uint16(b[2:]))
		if _, has := list[code]; !has {
			list[code] = b[4:end]
		}
		b = b[end:]
	}
	return list, nil
}

func appendOption6(b []byte, code uint16, v []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(v)))
	return append(b, v...)
}

// status6 is the code of a status option, 0 (success) when there is none.
func status6(options map[uint16][]byte) uint16 {
	if v := options[opt6Status]; len(v) >= 2 {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

// address returns the address that the message gives, with the IA_NA option as it
// stands, or why it gives none.
func (m *dhcp6Message) address() (a ipAddr, ia []byte, err error) {
	ia = m.Options[opt6IANA]
	if code := status6(m.Options); code != 0 {
		return a, nil, errorf("dhcpv6: the server says status %d", code)
	}
	if len(ia) < 12 {
		return a, nil, errors.New("dhcpv6: no address")
	}
	// IAID(4) T1(4) T2(4) options; IAADDR: address(16) preferred(4) valid(4) options
	inner, err := options6(ia[12:])
	if err != nil {
		return a, nil, err
	}
	v := inner[opt6IAAddr]
	if code := status6(inner); code != 0 || len(v) < 24 {
		return a, nil, errorf("dhcpv6: no address, status %d", code)
	}
	a = addrFrom16([16]byte(v[:16]))
	if !a.IsGlobalUnicast() || a.Is4In6() || binary.BigEndian.Uint32(v[20:]) == 0 {
		return a, nil, errors.New("dhcpv6: no usable address")
	}
	return a, ia, nil
}

// dhcp6 is one exchange on an interface.
type dhcp6 struct {
	link  *link
	fd    int
	duid  []byte // DUID-LL: the same on every boot
	began time.Time
	last  error // why the last answer was none
}

// message is what all messages hold, and what this one holds besides.
func (d *dhcp6) message(kind byte, xid [3]byte, more []byte) []byte {
	b := append([]byte{kind}, xid[:]...)
	b = appendOption6(b, opt6ClientID, d.duid)
	elapsed := min(time.Since(d.began)/(10*time.Millisecond), 0xffff)
	b = appendOption6(b, opt6Elapsed, []byte{byte(elapsed >> 8), byte(elapsed)})
	return append(b, more...)
}

// ask sends a message until an answer of a kind comes that gives an address.
func (d *dhcp6) ask(ctx context.Context, kind, answer byte, more []byte) (*dhcp6Message, ipAddr, error) {
	all := &unix.SockaddrInet6{Port: 547, ZoneId: uint32(d.link.Index), Addr: [16]byte{0: 0xff, 1: 0x02, 13: 1, 15: 2}} // ff02::1:2
	r := rand.Uint32()
	xid := [3]byte{byte(r), byte(r >> 8), byte(r >> 16)}
	buf := make([]byte, maxDHCP6+1)
	for wait := time.Second; ; wait = min(2*wait, dhcpLongestWait) {
		if err := unix.Sendto(d.fd, d.message(kind, xid, more), 0, all); err != nil {
			d.last = err
		}
		end := time.Now().Add(wait)
		for {
			err := waitFD(ctx, d.fd, unix.POLLIN, time.Until(end))
			if errors.Is(err, unix.ETIMEDOUT) && ctx.Err() == nil {
				break
			}
			if err != nil {
				return nil, ipAddr{}, errors.Join(err, d.last)
			}
			n, _, err := unix.Recvfrom(d.fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				continue
			}
			m, err := decodeDHCP6(slices.Clone(buf[:n]))
			if err != nil || m.Kind != answer || m.XID != xid || string(m.Options[opt6ClientID]) != string(d.duid) || len(m.Options[opt6ServerID]) == 0 {
				continue
			}
			a, _, err := m.address()
			if err == nil {
				return m, a, nil
			}
			d.last = err
		}
	}
}

// acquire6 gets an IPv6 address by SOLICIT, ADVERTISE, REQUEST and REPLY.
func acquire6(ctx context.Context, l *link) (ipAddr, error) {
	fd, err := openDHCP6(ctx, l)
	if err != nil {
		return ipAddr{}, err
	}
	defer unix.Close(fd)
	d := &dhcp6{link: l, fd: fd, duid: append([]byte{0, 3, 0, 1}, l.MAC[:]...), began: time.Now()}
	ia := append(append([]byte{}, l.MAC[2:]...), make([]byte, 8)...)
	offer, _, err := d.ask(ctx, dhcp6Solicit, dhcp6Advertise, appendOption6(nil, opt6IANA, ia))
	if err == nil {
		_, ia, _ = offer.address()
		more := appendOption6(appendOption6(nil, opt6ServerID, offer.Options[opt6ServerID]), opt6IANA, ia)
		var a ipAddr
		if _, a, err = d.ask(ctx, dhcp6Request, dhcp6Reply, more); err == nil {
			return a, nil
		}
	}
	return ipAddr{}, failure("get an IPv6 address on", l.Name, err)
}

// openDHCP6 opens port 546 of the interface's link-local address. While the kernel
// looks whether another has that address it can't be bound: its events are waited
// for.
func openDHCP6(ctx context.Context, l *link) (int, error) {
	r, err := bindRTNL(1 << (unix.RTNLGRP_IPV6_IFADDR - 1))
	if err != nil {
		return -1, err
	}
	defer r.close()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, failure("open", "IPv6 socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	a := l.MAC // the interface identifier of RFC 4291, appendix A
	local := &unix.SockaddrInet6{Port: 546, ZoneId: uint32(l.Index), Addr: [16]byte{0: 0xfe, 1: 0x80, 8: a[0] ^ 2, 9: a[1], 10: a[2], 11: 0xff, 12: 0xfe, 13: a[3], 14: a[4], 15: a[5]}}
	for {
		if err = unix.Bind(fd, local); err == nil {
			return fd, nil
		}
		if ctx.Err() != nil || !errors.Is(err, unix.EADDRNOTAVAIL) {
			unix.Close(fd)
			return -1, failure("bind to the link-local address of", l.Name, err)
		}
		_, _ = r.receive(linkEventPoll)
	}
}

// managed says whether a router has told the kernel that addresses come by DHCPv6
// (the M flag of its advertisements), by interface.
func (r *rtnl) managed() map[int]bool {
	const protoInfo, inet6Flags, raManaged = unix.IFLA_PROTINFO, 1, 0x40 // include/net/if_inet6.h: IF_RA_MANAGED
	body := ifinfomsg(0, 0, 0)
	body[0] = unix.AF_INET6
	bodies, _ := r.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, body)
	list := map[int]bool{}
	for _, b := range bodies {
		l, err := decodeLink(b)
		if err != nil {
			continue
		}
		_ = attributes(b[ifinfomsgSize:], func(kind uint16, v []byte) {
			if kind == protoInfo {
				_ = attributes(v, func(kind uint16, v []byte) {
					list[l.Index] = list[l.Index] || kind == inet6Flags && attributeInt(v)&raManaged != 0
				})
			}
		})
	}
	return list
}

// ipv6Patience is how long an interface has for its IPv6 address. Nothing waits
// for it but the end of the run.
const ipv6Patience = 20 * time.Second

// ipv6File keeps the MAC addresses of the interfaces that have had IPv6 addresses,
// for boots without a metadata service.
const ipv6File = stateDir + "/ipv6"

// stepIPv6 sets IPv6 addresses where the metadata service or a router says that
// there are some. Default routes are the kernel's, from router advertisements.
func (b *boot) stepIPv6(ctx context.Context) (string, error) {
	if b.lease == nil || b.cfg.IPv6 == "no" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, ipv6Patience)
	defer cancel()
	r, err := openRTNL()
	if err != nil {
		return "", err
	}
	defer r.close()
	managed, before := r.managed(), b.remembered(ipv6File)
	var texts, have []string
	var errs []error
	for _, le := range append([]*lease{b.lease}, b.others...) {
		nic := b.imds.nic(le.Link.MAC)
		wanted := b.cfg.IPv6 == "yes" || managed[le.Link.Index] || len(nic.IPv6) > 0 || b.imds == nil && slices.Contains(before, le.Link.MAC.String())
		if !wanted || le.Configured {
			continue
		}
		have = append(have, le.Link.MAC.String())
		if sysAttr(b.proc("sys/net/ipv6/conf", le.Link.Name, "disable_ipv6")) == "1" {
			errs = append(errs, failure("get an IPv6 address on", le.Link.Name, errors.New("IPv6 is switched off")))
			continue
		}
		a, err := acquire6(ctx, le.Link)
		if err == nil {
			if err = b.addMore(r, le, prefixFrom(a, 128)); err == nil {
				texts = append(texts, a.String()+" via "+le.Link.Name)
			}
		}
		errs = append(errs, err)
	}
	if len(texts) > 0 {
		b.saveLeases()
	}
	if b.imds != nil {
		errs = append(errs, b.remember(ipv6File, have))
	}
	return strings.Join(texts, ", "), errors.Join(errs...)
}

// nic is what the metadata service says of an interface; nothing when it does not
// know it, or was not asked.
func (md *metadata) nic(a mac) imdsInterface {
	if md != nil {
		for _, n := range md.Interfaces {
			if n.MAC == a {
				return n
			}
		}
	}
	return imdsInterface{}
}
