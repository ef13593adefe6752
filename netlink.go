package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// link is a network interface as the kernel describes it.
type link struct {
	Name   string
	Index  int
	MAC    mac
	MTU    int
	Flags  uint32 // IFF_*
	Type   uint16 // ARPHRD_*
	Master int
	Kind   string // of a virtual device: "veth", "bridge"; "" for hardware
	Driver string // from sysfs; may be empty
}

func (l *link) up() bool      { return l.Flags&unix.IFF_UP != 0 }
func (l *link) carrier() bool { return l.up() && l.Flags&unix.IFF_LOWER_UP != 0 }

// ifinfomsg (include/uapi/linux/rtnetlink.h):
//
//	unsigned char ifi_family, __ifi_pad; unsigned short ifi_type;
//	int ifi_index; unsigned ifi_flags, ifi_change;
const ifinfomsgSize = 16

func ifinfomsg(index int, flags, change uint32) []byte {
	b := make([]byte, ifinfomsgSize)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// decodeLink reads the body of an RTM_NEWLINK or RTM_DELLINK message.
func decodeLink(b []byte) (*link, error) {
	if len(b) < ifinfomsgSize {
		return nil, errors.New("netlink: short link message")
	}
	l := &link{Type: binary.NativeEndian.Uint16(b[2:]), Index: int(int32(binary.NativeEndian.Uint32(b[4:]))), Flags: binary.NativeEndian.Uint32(b[8:])}
	err := attributes(b[ifinfomsgSize:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = attributeString(v)
		case unix.IFLA_ADDRESS:
			if len(v) == 6 {
				l.MAC = mac(v)
			}
		case unix.IFLA_MTU:
			l.MTU = attributeInt(v)
		case unix.IFLA_MASTER:
			l.Master = attributeInt(v)
		case unix.IFLA_LINKINFO:
			_ = attributes(v, func(kind uint16, v []byte) {
				if kind == unix.IFLA_INFO_KIND {
					l.Kind = attributeString(v)
				}
			})
		}
	})
	if err != nil {
		return nil, err
	}
	if l.Name == "" || l.Index <= 0 {
		return nil, errors.New("netlink: link message without name or index")
	}
	return l, nil
}

// links lists the interfaces in the kernel's order.
func (r *rtnl) links() ([]*link, error) {
	bodies, err := r.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, ifinfomsg(0, 0, 0))
	if err != nil {
		return nil, failure("list", "network interfaces", err)
	}
	var list []*link
	for _, b := range bodies {
		if l, err := decodeLink(b); err == nil {
			list = append(list, l)
		}
	}
	return list, nil
}

// setUp brings an interface up or down.
func (r *rtnl) setUp(l *link, up bool) error {
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP
	}
	if err := r.request(unix.RTM_NEWLINK, 0, ifinfomsg(l.Index, flags, unix.IFF_UP)); err != nil {
		return failure("bring up", l.Name, err)
	}
	return nil
}

func (r *rtnl) setMTU(l *link, mtu int) error {
	if err := r.request(unix.RTM_NEWLINK, 0, appendAttribute32(ifinfomsg(l.Index, 0, 0), unix.IFLA_MTU, uint32(mtu))); err != nil {
		return failure("set mtu of", l.Name, err)
	}
	return nil
}

// ifaddrmsg (include/uapi/linux/if_addr.h):
//
//	__u8 ifa_family, ifa_prefixlen, ifa_flags, ifa_scope; __u32 ifa_index;
const ifaddrmsgSize = 8

func ifaddrmsg(index, bits int) []byte {
	b := make([]byte, ifaddrmsgSize)
	b[0], b[1] = unix.AF_INET, byte(bits)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// address returns the first global IPv4 address of an interface; link-local
// ones don't count.
func (r *rtnl) address(index int) (netip.Prefix, error) {
	bodies, err := r.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, ifaddrmsg(0, 0))
	if err != nil {
		return netip.Prefix{}, failure("list", "network addresses", err)
	}
	for _, b := range bodies {
		if len(b) < ifaddrmsgSize || b[0] != unix.AF_INET || b[3] != unix.RT_SCOPE_UNIVERSE || int(binary.NativeEndian.Uint32(b[4:])) != index {
			continue
		}
		var found netip.Prefix
		_ = attributes(b[ifaddrmsgSize:], func(kind uint16, v []byte) {
			if kind == unix.IFA_LOCAL && len(v) == 4 && !netip.AddrFrom4([4]byte(v)).IsLinkLocalUnicast() {
				found = netip.PrefixFrom(netip.AddrFrom4([4]byte(v)), int(b[1]))
			}
		})
		if found.IsValid() {
			return found, nil
		}
	}
	return netip.Prefix{}, nil
}

// addAddress sets an IPv4 address; one that is there already is no error.
func (r *rtnl) addAddress(l *link, p netip.Prefix, broadcast netip.Addr) error {
	a := p.Addr().As4()
	b := appendAttribute(ifaddrmsg(l.Index, p.Bits()), unix.IFA_LOCAL, a[:])
	b = appendAttribute(b, unix.IFA_ADDRESS, a[:])
	if broadcast.Is4() {
		bc := broadcast.As4()
		b = appendAttribute(b, unix.IFA_BROADCAST, bc[:])
	}
	err := r.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return failure("set address of", l.Name, err)
	}
	return nil
}

// rtmsg (include/uapi/linux/rtnetlink.h):
//
//	unsigned char rtm_family, rtm_dst_len, rtm_src_len, rtm_tos,
//	rtm_table, rtm_protocol, rtm_scope, rtm_type; unsigned rtm_flags;
const rtmsgSize = 12

// addRoute adds a route of DHCP's protocol number. One to the same destination
// that is there already, of whoever, stays. A gateway outside of the address's
// prefix is taken to be on the link.
func (r *rtnl) addRoute(l *link, p netip.Prefix, rt route) error {
	b := make([]byte, rtmsgSize)
	b[0], b[1], b[4], b[5], b[7] = unix.AF_INET, byte(rt.Dst.Bits()), unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RTN_UNICAST
	if rt.Dst.Bits() > 0 {
		dst := rt.Dst.Addr().As4()
		b = appendAttribute(b, unix.RTA_DST, dst[:])
	}
	if rt.Gateway.IsValid() {
		gw := rt.Gateway.As4()
		b = appendAttribute(b, unix.RTA_GATEWAY, gw[:])
		if !p.Contains(rt.Gateway) {
			binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
		}
	} else {
		b[6] = unix.RT_SCOPE_LINK
	}
	src := p.Addr().As4()
	b = appendAttribute(b, unix.RTA_PREFSRC, src[:])
	b = appendAttribute32(b, unix.RTA_OIF, uint32(l.Index))
	err := r.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return failure("add route", fmt.Sprintf("%s on %s", rt, l.Name), err)
	}
	return nil
}
