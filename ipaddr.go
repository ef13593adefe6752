package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// ipAddr is an IPv4 or IPv6 address; the zero value is none. It is comparable.
// Like net/netip, whose names its methods have, but without zones: that package
// takes 30 kB more.
type ipAddr struct {
	bytes [16]byte // the first four for IPv4
	bits  uint8    // 0, 32 or 128
}

func addrFrom4(b [4]byte) ipAddr {
	a := ipAddr{bits: 32}
	copy(a.bytes[:], b[:])
	return a
}

func addrFrom16(b [16]byte) ipAddr { return ipAddr{b, 128} }

func (a ipAddr) IsValid() bool { return a.bits != 0 }
func (a ipAddr) Is4() bool     { return a.bits == 32 }
func (a ipAddr) Is6() bool     { return a.bits == 128 }

// BitLen is 32, 128, or 0 for none.
func (a ipAddr) BitLen() int { return int(a.bits) }

func (a ipAddr) As4() [4]byte    { return [4]byte(a.bytes[:]) }
func (a ipAddr) As16() [16]byte  { return a.bytes }
func (a ipAddr) AsSlice() []byte { return a.bytes[:a.bits/8] }

// Compare sorts IPv4 before IPv6, then by number.
func (a ipAddr) Compare(b ipAddr) int {
	if a.bits != b.bits {
		return int(a.bits) - int(b.bits)
	}
	return bytes.Compare(a.bytes[:], b.bytes[:])
}

func (a ipAddr) IsUnspecified() bool { return a.bits != 0 && a.bytes == [16]byte{} }

func (a ipAddr) IsLoopback() bool {
	return a.Is4() && a.bytes[0] == 127 || a.Is6() && a.bytes == [16]byte{15: 1}
}

func (a ipAddr) IsMulticast() bool {
	return a.Is4() && a.bytes[0]&0xf0 == 0xe0 || a.Is6() && a.bytes[0] == 0xff
}

func (a ipAddr) IsLinkLocalUnicast() bool {
	return a.Is4() && a.bytes[0] == 169 && a.bytes[1] == 254 || a.Is6() && a.bytes[0] == 0xfe && a.bytes[1]&0xc0 == 0x80
}

// Is4In6 says whether an IPv6 address stands for an IPv4 one (::ffff:0:0/96).
func (a ipAddr) Is4In6() bool {
	return a.Is6() && bytes.Equal(a.bytes[:12], []byte{10: 0xff, 11: 0xff})
}

// IsGlobalUnicast is what RFC 4291 means: all but unspecified, loopback,
// link-local, multicast and IPv4's broadcast addresses.
func (a ipAddr) IsGlobalUnicast() bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && a != addrFrom4([4]byte{255, 255, 255, 255})
}

// String is dotted decimal, or the form of RFC 5952.
func (a ipAddr) String() string {
	var s []byte
	switch a.bits {
	case 0:
		return "invalid IP"
	case 32:
		for i, b := range a.bytes[:4] {
			if i > 0 {
				s = append(s, '.')
			}
			s = strconv.AppendUint(s, uint64(b), 10)
		}
		return string(s)
	}
	group := func(i int) uint16 { return be.Uint16(a.bytes[2*i:]) }
	// The first of the longest runs of two or more zero groups is left out.
	from, to := 8, 8
	for i := 0; i < 8; i++ {
		n := 0
		for i+n < 8 && group(i+n) == 0 {
			n++
		}
		if n >= 2 && n > to-from {
			from, to = i, i+n
		}
		i += n
	}
	for i := 0; i < 8; i++ {
		if i == from {
			s = append(s, "::"...)
			if i = to; i == 8 {
				break
			}
		} else if i > 0 {
			s = append(s, ':')
		}
		s = strconv.AppendUint(s, uint64(group(i)), 16)
	}
	return string(s)
}

var errNoAddress = errors.New("no IP address")

// parseAddr reads what String writes, and every other form of RFC 4291 without a zone.
func parseAddr(s string) (ipAddr, error) {
	if len(s) > 45 {
		return ipAddr{}, errNoAddress
	}
	if !strings.Contains(s, ":") {
		return parseAddr4(s)
	}
	var a ipAddr
	n, gap := 0, -1 // bytes read, and how many of them stand before ::
	rest := s
	if strings.HasPrefix(rest, "::") {
		gap, rest = 0, rest[2:]
	}
	for rest != "" {
		word, after, more := strings.Cut(rest, ":")
		if strings.Contains(word, ".") {
			v4, err := parseAddr4(word)
			if err != nil || more || n > 12 {
				return ipAddr{}, errNoAddress
			}
			n += copy(a.bytes[n:], v4.AsSlice())
			break
		}
		v, err := strconv.ParseUint(word, 16, 16)
		if err != nil || len(word) > 4 || n > 14 {
			return ipAddr{}, errNoAddress
		}
		be.PutUint16(a.bytes[n:], uint16(v))
		n += 2
		if more && after == "" {
			return ipAddr{}, errNoAddress
		}
		if strings.HasPrefix(after, ":") {
			if gap >= 0 {
				return ipAddr{}, errNoAddress
			}
			gap, after = n, after[1:]
		}
		rest = after
	}
	switch {
	case gap >= 0 && n < 16:
		copy(a.bytes[16-(n-gap):], a.bytes[gap:n])
		clear(a.bytes[gap : 16-(n-gap)])
	case gap >= 0 || n != 16:
		return ipAddr{}, errNoAddress
	}
	a.bits = 128
	return a, nil
}

func parseAddr4(s string) (ipAddr, error) {
	a := ipAddr{bits: 32}
	for i := range 4 {
		word, after, more := strings.Cut(s, ".")
		v, err := strconv.ParseUint(word, 10, 8)
		if err != nil || more == (i == 3) || len(word) > 1 && word[0] == '0' {
			return ipAddr{}, errNoAddress
		}
		a.bytes[i], s = byte(v), after
	}
	return a, nil
}

// ipPrefix is an address and the length of its network part; the zero value is none.
type ipPrefix struct {
	addr   ipAddr
	length uint8
}

// prefixFrom keeps the address's host part. A length that is out of range makes
// no prefix.
func prefixFrom(a ipAddr, length int) ipPrefix {
	if length < 0 || length > a.BitLen() {
		return ipPrefix{}
	}
	return ipPrefix{a, uint8(length)}
}

func (p ipPrefix) IsValid() bool { return p.addr.IsValid() }
func (p ipPrefix) Addr() ipAddr  { return p.addr }
func (p ipPrefix) Bits() int     { return int(p.length) }

// Masked is the prefix with its host part zero.
func (p ipPrefix) Masked() ipPrefix {
	for i := range p.addr.bytes {
		keep := min(max(int(p.length)-8*i, 0), 8)
		p.addr.bytes[i] &= byte(uint16(0xff00) >> keep)
	}
	return p
}

// Contains is false for addresses of the other family, and for none.
func (p ipPrefix) Contains(a ipAddr) bool {
	return p.IsValid() && a.bits == p.addr.bits && prefixFrom(a, p.Bits()).Masked() == p.Masked()
}

func (p ipPrefix) String() string {
	if !p.IsValid() {
		return "invalid Prefix"
	}
	return p.addr.String() + "/" + strconv.Itoa(p.Bits())
}

// parsePrefix reads ADDRESS/LENGTH.
func parsePrefix(s string) (ipPrefix, error) {
	addr, length, _ := strings.Cut(s, "/")
	a, err := parseAddr(addr)
	n, lengthErr := strconv.ParseUint(length, 10, 8)
	if err != nil || lengthErr != nil || int(n) > a.BitLen() || len(length) > 1 && length[0] == '0' {
		return ipPrefix{}, errors.New("no address and prefix length")
	}
	return ipPrefix{a, uint8(n)}, nil
}

// ipAddrPort is where a server listens.
type ipAddrPort struct {
	Addr ipAddr
	Port uint16
}

// String is ADDRESS:PORT, with an IPv6 address in brackets.
func (p ipAddrPort) String() string {
	host := p.Addr.String()
	if p.Addr.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(p.Port))
}

// parseAddrPort reads ADDRESS:PORT, with an IPv6 address in brackets.
func parseAddrPort(s string) (ipAddrPort, error) {
	colon := strings.LastIndexByte(s, ':')
	host, port := s[:max(colon, 0)], s[colon+1:]
	bare, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		bare, bracketed = strings.CutSuffix(bare, "]")
	}
	a, err := parseAddr(bare)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || a.Is6() != bracketed {
		return ipAddrPort{}, errors.New("no IP address and port")
	}
	return ipAddrPort{a, uint16(n)}, nil
}
