package main

import (
	"encoding/binary"
	"errors"

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
	Path   string // of its device in sysfs; may be empty
	Raised bool   // azprov has brought it up
	// Changes is how often the carrier has come or gone since the device was made.
	Changes int
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
		case unix.IFLA_CARRIER_CHANGES:
			l.Changes = attributeInt(v)
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

// setName renames an interface. Kernels before 6.2 want it to be down for that:
// then it is taken down for the moment.
func (r *rtnl) setName(l *link, name string) error {
	rename := func() error {
		return r.request(unix.RTM_NEWLINK, 0, appendAttribute(ifinfomsg(l.Index, 0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
	}
	err := rename()
	if errors.Is(err, unix.EBUSY) {
		if err = r.setUp(l, false); err != nil {
			return err
		}
		err = rename()
		if upErr := r.setUp(l, true); err == nil {
			err = upErr
		}
	}
	if err != nil {
		return failure("rename "+l.Name+" to", name, err)
	}
	l.Name = name
	return nil
}

// ifaddrmsg (include/uapi/linux/if_addr.h):
//
//	__u8 ifa_family, ifa_prefixlen, ifa_flags, ifa_scope; __u32 ifa_index;
const ifaddrmsgSize = 8

func ifaddrmsg(index, bits int, family byte) []byte {
	b := make([]byte, ifaddrmsgSize)
	b[0], b[1] = family, byte(bits)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// addresses returns the first global IPv4 address of each interface, by index;
// link-local ones don't count.
func (r *rtnl) addresses() (map[int]ipPrefix, error) {
	bodies, err := r.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, ifaddrmsg(0, 0, unix.AF_INET))
	if err != nil {
		return nil, failure("list", "network addresses", err)
	}
	found := map[int]ipPrefix{}
	for _, b := range bodies {
		if len(b) < ifaddrmsgSize || b[0] != unix.AF_INET || b[3] != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		index := int(binary.NativeEndian.Uint32(b[4:]))
		_ = attributes(b[ifaddrmsgSize:], func(kind uint16, v []byte) {
			if kind == unix.IFA_LOCAL && len(v) == 4 && !addrFrom4([4]byte(v)).IsLinkLocalUnicast() && !found[index].IsValid() {
				found[index] = prefixFrom(addrFrom4([4]byte(v)), int(b[1]))
			}
		})
	}
	return found, nil
}

func family(a ipAddr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addressMessage is the body of a request about an address of an interface.
func addressMessage(index int, p ipPrefix) []byte {
	b := appendAttribute(ifaddrmsg(index, p.Bits(), family(p.Addr())), unix.IFA_LOCAL, p.Addr().AsSlice())
	return appendAttribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// addAddress sets an address; one that is there already is no error. The route
// to its prefix, which the kernel makes, gets the metric.
func (r *rtnl) addAddress(l *link, p ipPrefix, broadcast ipAddr, metric int) error {
	b := addressMessage(l.Index, p)
	if broadcast.Is4() {
		b = appendAttribute(b, unix.IFA_BROADCAST, broadcast.AsSlice())
	}
	if metric > 0 {
		b = appendAttribute32(b, unix.IFA_RT_PRIORITY, uint32(metric))
	}
	err := r.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return failure("set address of", l.Name, err)
	}
	return nil
}

// removeAddress undoes addAddress; one that has gone is no error.
func (r *rtnl) removeAddress(l *link, p ipPrefix) error {
	return ignoreGone("remove address of", l.Name, r.request(unix.RTM_DELADDR, 0, addressMessage(l.Index, p)))
}

// ignoreGone is the failure to remove something, nil when it or its interface
// was not there.
func ignoreGone(op, what string, err error) error {
	if err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return failure(op, what, err)
}

// rtmsg (include/uapi/linux/rtnetlink.h):
//
//	unsigned char rtm_family, rtm_dst_len, rtm_src_len, rtm_tos,
//	rtm_table, rtm_protocol, rtm_scope, rtm_type; unsigned rtm_flags;
const rtmsgSize = 12

// routeMessage is the body of a request about a route of DHCP's protocol number.
// A gateway outside of the address's prefix is taken to be on the link.
func routeMessage(index int, p ipPrefix, rt route, metric int) []byte {
	b := make([]byte, rtmsgSize)
	b[0], b[1], b[4], b[5], b[7] = unix.AF_INET, byte(rt.Dst.Bits()), unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RTN_UNICAST
	if rt.Dst.Bits() > 0 {
		b = appendAttribute(b, unix.RTA_DST, rt.Dst.Addr().AsSlice())
	}
	if rt.Gateway.IsValid() {
		b = appendAttribute(b, unix.RTA_GATEWAY, rt.Gateway.AsSlice())
		if !p.Contains(rt.Gateway) {
			binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
		}
	} else {
		b[6] = unix.RT_SCOPE_LINK
	}
	b = appendAttribute(b, unix.RTA_PREFSRC, p.Addr().AsSlice())
	if metric > 0 {
		b = appendAttribute32(b, unix.RTA_PRIORITY, uint32(metric))
	}
	return appendAttribute32(b, unix.RTA_OIF, uint32(index))
}

// addRoute adds a route and says whether it was not there. One to the same
// destination with the same metric, of whoever, stays.
func (r *rtnl) addRoute(le *lease, rt route) (added bool, err error) {
	err = r.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, routeMessage(le.Link.Index, le.Prefix, rt, le.Metric))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, failure("add route", sprintf("%s on %s", rt, le.Link.Name), err)
	}
	return err == nil, nil
}

// removeRoute undoes addRoute; a route that has gone is no error.
func (r *rtnl) removeRoute(le *lease, rt route) error {
	return ignoreGone("remove route", sprintf("%s on %s", rt, le.Link.Name), r.request(unix.RTM_DELROUTE, 0, routeMessage(le.Link.Index, le.Prefix, rt, le.Metric)))
}

// interfaceTo returns the index of the interface that an IPv4 address is reached
// by, 0 when there is no route.
func (r *rtnl) interfaceTo(a ipAddr) (index int) {
	b := make([]byte, rtmsgSize)
	b[0], b[1] = unix.AF_INET, 32
	bodies, err := r.execute(unix.RTM_GETROUTE, unix.NLM_F_ACK, unix.RTM_NEWROUTE, appendAttribute(b, unix.RTA_DST, a.AsSlice()))
	if err != nil || len(bodies) != 1 || len(bodies[0]) < rtmsgSize {
		return 0
	}
	_ = attributes(bodies[0][rtmsgSize:], func(kind uint16, v []byte) {
		if kind == unix.RTA_OIF {
			index = attributeInt(v)
		}
	})
	return index
}
