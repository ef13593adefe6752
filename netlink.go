package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rtnl is a connection for requests to rtnetlink(7).
type rtnl struct{ conn *netlink.Conn }

func openRTNL() (*rtnl, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Strict: false})
	if err != nil {
		return nil, failure("open", "netlink route socket", err)
	}
	return &rtnl{c}, nil
}

func (r *rtnl) close() { r.conn.Close() }

// request sends one message with an acknowledgement.
func (r *rtnl) request(kind netlink.HeaderType, flags netlink.HeaderFlags, body []byte) error {
	_, err := r.conn.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Acknowledge | flags}, Data: body})
	return err
}

// dump asks for all objects of a kind and returns their messages of one type.
func (r *rtnl) dump(kind, answer netlink.HeaderType, body []byte) ([][]byte, error) {
	list, err := r.conn.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: body})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, m := range list {
		if m.Header.Type == answer {
			out = append(out, m.Data)
		}
	}
	return out, nil
}

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
	ad, err := netlink.NewAttributeDecoder(b[ifinfomsgSize:])
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.Name = ad.String()
		case unix.IFLA_ADDRESS:
			if v := ad.Bytes(); len(v) == 6 {
				l.MAC = mac(v)
			}
		case unix.IFLA_MTU:
			l.MTU = int(ad.Uint32())
		case unix.IFLA_MASTER:
			l.Master = int(ad.Uint32())
		case unix.IFLA_LINKINFO:
			ad.Nested(func(info *netlink.AttributeDecoder) error {
				for info.Next() {
					if info.Type() == unix.IFLA_INFO_KIND {
						l.Kind = info.String()
					}
				}
				return nil
			})
		}
	}
	if err := ad.Err(); err != nil {
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
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(unix.IFLA_MTU, uint32(mtu))
	attrs, err := ae.Encode()
	if err == nil {
		err = r.request(unix.RTM_NEWLINK, 0, append(ifinfomsg(l.Index, 0, 0), attrs...))
	}
	if err != nil {
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
		ad, err := netlink.NewAttributeDecoder(b[ifaddrmsgSize:])
		if err != nil {
			continue
		}
		for ad.Next() {
			if v := ad.Bytes(); ad.Type() == unix.IFA_LOCAL && len(v) == 4 {
				if a := netip.AddrFrom4([4]byte(v)); !a.IsLinkLocalUnicast() {
					return netip.PrefixFrom(a, int(b[1])), nil
				}
			}
		}
	}
	return netip.Prefix{}, nil
}

// addAddress sets an IPv4 address; one that is there already is no error.
func (r *rtnl) addAddress(l *link, p netip.Prefix, broadcast netip.Addr) error {
	ae := netlink.NewAttributeEncoder()
	a := p.Addr().As4()
	ae.Bytes(unix.IFA_LOCAL, a[:])
	ae.Bytes(unix.IFA_ADDRESS, a[:])
	if broadcast.Is4() {
		bc := broadcast.As4()
		ae.Bytes(unix.IFA_BROADCAST, bc[:])
	}
	attrs, err := ae.Encode()
	if err == nil {
		err = r.request(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, append(ifaddrmsg(l.Index, p.Bits()), attrs...))
	}
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
	ae := netlink.NewAttributeEncoder()
	if rt.Dst.Bits() > 0 {
		dst := rt.Dst.Addr().As4()
		ae.Bytes(unix.RTA_DST, dst[:])
	}
	if rt.Gateway.IsValid() {
		gw := rt.Gateway.As4()
		ae.Bytes(unix.RTA_GATEWAY, gw[:])
		if !p.Contains(rt.Gateway) {
			binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
		}
	} else {
		b[6] = unix.RT_SCOPE_LINK
	}
	src := p.Addr().As4()
	ae.Bytes(unix.RTA_PREFSRC, src[:])
	ae.Uint32(unix.RTA_OIF, uint32(l.Index))
	attrs, err := ae.Encode()
	if err == nil {
		err = r.request(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, append(b, attrs...))
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return failure("add route", fmt.Sprintf("%s on %s", rt, l.Name), err)
	}
	return nil
}
