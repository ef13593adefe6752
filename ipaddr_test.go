package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// sameAddr compares with the standard library's address.
func sameAddr(t *testing.T, text string) {
	t.Helper()
	want, wantErr := netip.ParseAddr(text)
	if want.Zone() != "" {
		want, wantErr = netip.Addr{}, errNoAddress
	}
	got, err := parseAddr(text)
	if (err == nil) != (wantErr == nil) {
		t.Errorf("%q: %v, the standard library: %v", text, err, wantErr)
		return
	}
	if err != nil {
		return
	}
	if string(got.AsSlice()) != string(want.AsSlice()) || got.Is4() != want.Is4() || got.Is6() != want.Is6() {
		t.Errorf("%q is %v, want %v", text, got.AsSlice(), want.AsSlice())
	}
	if want.Is4In6() {
		want = netip.AddrFrom16(want.As16())
		if !got.Is4In6() {
			t.Errorf("%q is no IPv4 address in IPv6", text)
		}
	} else if got.Is4In6() || got.IsGlobalUnicast() != want.IsGlobalUnicast() {
		t.Errorf("%q is judged otherwise", text)
	} else if got.String() != want.String() {
		t.Errorf("%q becomes %s, want %s", text, got, want)
	}
	if got.IsUnspecified() != want.IsUnspecified() || got.IsLoopback() != want.IsLoopback() && !want.Is4In6() ||
		got.IsMulticast() != want.IsMulticast() && !want.Is4In6() || got.IsLinkLocalUnicast() != want.IsLinkLocalUnicast() && !want.Is4In6() {
		t.Errorf("%q is judged otherwise", text)
	}
	if back, err := parseAddr(got.String()); err != nil || back != got {
		t.Errorf("%q is read back as %v, %v", got, back, err)
	}
}

var addressTexts = []string{"", "0.0.0.0", "255.255.255.255", "168.63.129.16", "169.254.1.2", "127.0.0.1", "224.0.0.1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256",
	"1..2.3", "1.2.3.4 ", "+1.2.3.4", "::", "::1", "1::", "fe80::1", "fe80::1%eth0", "ff02::1:2", "2001:db8::", "2001:db8:0:0:1:0:0:1", "0:0:0:0:0:0:0:0", "1:2:3:4:5:6:7:8",
	"1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "1::2::3", ":::", ":1", "1:", "::1:", "12345::", "::ffff:1.2.3.4",
	"64:ff9b::192.0.2.33", "::1.2.3", "1.2.3.4::", "1:2:3:4:5:6:7:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "g::", "1:0:0:2:0:0:0:3", "0:0:1::", "::-1"}

func TestAddressesAsTheStandardLibrary(t *testing.T) {
	for _, text := range addressTexts {
		sameAddr(t, text)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		var b [16]byte
		for i := range 8 {
			if r.IntN(2) == 0 {
				binary.BigEndian.PutUint16(b[2*i:], uint16(r.Uint32()))
			}
		}
		sameAddr(t, netip.AddrFrom16(b).String())
		sameAddr(t, netip.AddrFrom4([4]byte(b[2:])).String())
	}
}

func TestPrefixesAsTheStandardLibrary(t *testing.T) {
	for _, text := range []string{"10.1.0.4/24", "10.1.0.4/32", "0.0.0.0/0", "10.1.0.4/33", "10.1.0.4/-1", "10.1.0.4/024", "10.1.0.4", "10.1.0.4/", "2001:db8::1/64", "2001:db8:ffff::1/35", "::/0", "::1/128", "::1/129"} {
		want, wantErr := netip.ParsePrefix(text)
		got, err := parsePrefix(text)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %v, the standard library: %v", text, err, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		if got.String() != want.String() || got.Masked().String() != want.Masked().String() || got.Bits() != want.Bits() {
			t.Errorf("%s becomes %s, masked %s", text, got, got.Masked())
		}
		for _, a := range []string{"10.1.0.255", "10.1.1.0", "0.0.0.0", "2001:db8::ffff", "2001:db8:e000::", "::1", "::"} {
			theirs, ours := netip.MustParseAddr(a), mustAddr(t, a)
			if got.Contains(ours) != want.Contains(theirs) {
				t.Errorf("%s contains %s: %v", text, a, got.Contains(ours))
			}
			if got.Addr().Compare(ours) < 0 != (want.Addr().Compare(theirs) < 0) {
				t.Errorf("%s and %s are sorted otherwise", text, a)
			}
		}
	}
	none := ipPrefix{}
	if none.IsValid() || none.Contains(ipAddr{}) || prefixFrom(mustAddr(t, "10.0.0.1"), 33).IsValid() || prefixFrom(mustAddr(t, "10.0.0.1"), -1).IsValid() {
		t.Error("no prefix is valid, or contains something")
	}
}

func mustAddr(t testing.TB, text string) ipAddr {
	t.Helper()
	a, err := parseAddr(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return a
}

func FuzzAddr(f *testing.F) {
	for _, text := range addressTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { sameAddr(t, text) })
}

func TestAddressesWithPorts(t *testing.T) {
	for _, text := range []string{"1.2.3.4:80", "[::1]:65535", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", ":80", "", "::1:80", "[1.2.3.4]:80", "[::1:80", "::1]:80", "[::1]80"} {
		want, wantErr := netip.ParseAddrPort(text)
		got, err := parseAddrPort(text)
		if (err == nil) != (wantErr == nil) || err == nil && got.String() != want.String() {
			t.Errorf("%q: %s, %v; the standard library: %s, %v", text, got, err, want, wantErr)
		}
	}
}

// must is for values that a test writes out.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
