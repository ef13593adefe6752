package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// azureACK is the answer of a real host: its options in their order.
func azureACK() []byte {
	b := make([]byte, bootpSize)
	b[0], b[1], b[2] = 2, 1, 6
	binary.BigEndian.PutUint32(b[4:], 0x01020304)
	copy(b[16:], []byte{10, 1, 0, 4})
	copy(b[20:], []byte{168, 63, 129, 16})
	copy(b[28:], []byte{0, 0x0d, 0x3a, 4, 0x75, 0x98})
	copy(b[44:], "DSM111090716029")
	copy(b[236:], dhcpCookie[:])
	options, err := hex.DecodeString("0104ffffff00" + "03040a010001" + "0604a83f8110" +
		"0f33" + hex.EncodeToString([]byte("abcdefghijklmnopqrstuvwxyz.gx.internal.cloudapp.net")) +
		"3304ffffffff" + "350105" + "3604a83f8110" + "3a04ffffffff" + "3b04ffffffff" + "f504a83f8110" +
		"7917" + "000a010001" + "20a83f81100a010001" + "20a9fea9fe0a010001" + "ff")
	if err != nil {
		panic(err)
	}
	return append(b, options...)
}

func TestDecodeAzureACK(t *testing.T) {
	d, err := parseDHCP(azureACK())
	if err != nil {
		t.Fatal(err)
	}
	bits, sound := d.prefixLength()
	got := fmt.Sprintln(d.kind(), d.Your, bits, sound, d.addr(optWireServer), d.addrs(optDNS), d.text(optDomain), d.duration(optLeaseTime), d.routes(), d.mtu())
	want := "5 10.1.0.4 24 true 168.63.129.16 [168.63.129.16] abcdefghijklmnopqrstuvwxyz.gx.internal.cloudapp.net 0s " +
		"[0.0.0.0/0 via 10.1.0.1 168.63.129.16/32 via 10.1.0.1 169.254.169.254/32 via 10.1.0.1] 0\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The same inside of a packet and a frame.
	packet := udpPacket(must(parseAddr("168.63.129.16")), must(parseAddr("10.1.0.4")), azureACK())
	frame := append([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 0}, packet...)
	for name, b := range map[string][]byte{"packet": packet, "frame": frame} {
		if d, err := parseDHCP(b); err != nil || d.Your.String() != "10.1.0.4" {
			t.Errorf("%s: %v", name, err)
		}
	}
	packet[40] ^= 1
	if _, err := udpPayload(packet, 0, false); err == nil {
		t.Error("a wrong UDP checksum was taken")
	}
	if _, err := udpPayload(packet, 0, true); err != nil {
		t.Errorf("an open checksum was judged: %v", err)
	}
}

func TestOptionForms(t *testing.T) {
	with := func(options ...byte) []byte { return append(azureACK()[:bootpSize:bootpSize], options...) }
	long := []byte{119, 255}
	long = append(append(long, bytes.Repeat([]byte{1, 'a'}, 127)...), 0)
	long = append(long, 119, 3, 1, 'b', 0)
	overload := with(optOverload, 1, 3, optEnd)
	copy(overload[108:], []byte{0, 0, optMTU, 2, 5, 120, optEnd})
	copy(overload[44:], []byte{optDomain, 2, 'x', 'y', optEnd})
	for name, c := range map[string]struct {
		b     []byte
		check func(*dhcpMessage) bool
	}{
		"pads":        {with(0, 0, optType, 1, 2, 0, optEnd, 99), func(d *dhcpMessage) bool { return d.kind() == 2 }},
		"split":       {with(optDNS, 2, 1, 2, optDNS, 2, 3, 4), func(d *dhcpMessage) bool { return fmt.Sprint(d.addrs(optDNS)) == "[1.2.3.4]" }},
		"overload":    {overload, func(d *dhcpMessage) bool { return d.mtu() == 1400 && d.text(optDomain) == "xy" }},
		"bad mask":    {with(optMask, 4, 255, 0, 255, 0), func(d *dhcpMessage) bool { _, ok := d.prefixLength(); return !ok }},
		"mask 32":     {with(optMask, 4, 255, 255, 255, 255), func(d *dhcpMessage) bool { n, ok := d.prefixLength(); return ok && n == 32 }},
		"evil name":   {with(append([]byte{optDomain, 8}, "a\nb nm; "...)...), func(d *dhcpMessage) bool { return d.text(optDomain) == "" }},
		"search":      {with(append(append([]byte{119, 14}, "\x03foo\x03com\x00\x01b\xc0\x00\x00"...), optEnd)...), func(d *dhcpMessage) bool { return slices.Equal(d.search(), []string{"foo.com", "b.foo.com"}) }},
		"search loop": {with(119, 2, 0xc0, 0), func(d *dhcpMessage) bool { return len(d.search()) == 0 }},
		"long search": {with(long...), func(d *dhcpMessage) bool { return len(d.search()) <= 16 }},
		"small mtu":   {with(optMTU, 2, 0, 68), func(d *dhcpMessage) bool { return d.mtu() == 0 }},
	} {
		d, err := decodeDHCP(c.b)
		if err != nil || !c.check(d) {
			t.Errorf("%s: %v %+v", name, err, d)
		}
	}
	for name, b := range map[string][]byte{"short": azureACK()[:239], "no cookie": append(azureACK()[:236:236], 1, 2, 3, 4), "option past the end": with(6, 200, 1), "code alone": with(6)} {
		if _, err := decodeDHCP(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestRoutes(t *testing.T) {
	msg := func(options map[byte][]byte) *dhcpMessage { return &dhcpMessage{Options: options} }
	gw := []byte{10, 0, 0, 1}
	classless121 := []byte{8, 172, 10, 0, 0, 2, 32, 1, 2, 3, 4, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		options map[byte][]byte
		want    string
	}{
		"121 alone counts":        {map[byte][]byte{3: gw, 33: {9, 9, 9, 9, 10, 0, 0, 3}, 121: classless121, 249: {0, 1, 1, 1, 1}}, "[172.0.0.0/8 via 10.0.0.2 1.2.3.4/32 on link]"},
		"249, and the router":     {map[byte][]byte{3: gw, 249: classless121}, "[172.0.0.0/8 via 10.0.0.2 1.2.3.4/32 on link 0.0.0.0/0 via 10.0.0.1]"},
		"249 with a default":      {map[byte][]byte{3: gw, 249: {0, 10, 0, 0, 9}}, "[0.0.0.0/0 via 10.0.0.9]"},
		"33 and 3":                {map[byte][]byte{3: gw, 33: {9, 9, 9, 9, 10, 0, 0, 3}}, "[9.9.9.9/32 via 10.0.0.3 0.0.0.0/0 via 10.0.0.1]"},
		"broken 121 keeps a part": {map[byte][]byte{3: gw, 121: append(slices.Clone(classless121), 40, 1)}, "[172.0.0.0/8 via 10.0.0.2 1.2.3.4/32 on link]"},
		"useless 121":             {map[byte][]byte{3: gw, 121: {33}}, "[0.0.0.0/0 via 10.0.0.1]"},
		"none":                    {nil, "[]"},
	} {
		if got := fmt.Sprint(msg(c.options).routes()); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	le := &lease{Prefix: must(parsePrefix("10.0.0.4/24")), Routes: msg(map[byte][]byte{121: classless121}).routes(), Router: must(parseAddr("10.0.0.1"))}
	want := "[1.2.3.4/32 on link 172.0.0.0/8 via 10.0.0.2 168.63.129.16/32 via 10.0.0.1 169.254.169.254/32 via 10.0.0.1]"
	if got := fmt.Sprint(le.allRoutes()); got != want {
		t.Errorf("all routes %s, want %s", got, want)
	}
	if a := lastAddress(must(parsePrefix("10.1.2.3/20"))); a.String() != "10.1.15.255" {
		t.Errorf("broadcast %s", a)
	}
}

func TestRequestPacket(t *testing.T) {
	d := &dhcpClient{link: &link{MAC: mac{0, 0x0d, 0x3a, 1, 2, 3}}, hostName: "edge", xid: 7}
	msg, err := decodeDHCP(d.message(dhcpDiscover).encode())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.message(dhcpDiscover).encode()) < minDHCPSize || string(msg.Options[optHostName]) != "edge" || !bytes.Equal(msg.Options[optClientID], []byte{1, 0, 0x0d, 0x3a, 1, 2, 3}) {
		t.Errorf("%+v", msg)
	}
	if got := msg.Options[optParameters]; !bytes.Equal(got, []byte{1, 3, 6, 12, 15, 26, 28, 33, 42, 51, 54, 58, 59, 119, 121, 245, 249}) {
		t.Errorf("parameter list %v", got)
	}
	for name, sent := range map[string]string{"edge.example.com": "edge", "localhost": "", "": "", "a b": "", strings.Repeat("x", 64): ""} {
		host, _, _ := strings.Cut(name, ".")
		if host == "localhost" || !validDNSName(host) {
			host = ""
		}
		if host != sent {
			t.Errorf("%q is sent as %q", name, host)
		}
	}
}

func TestUnsoundAnswers(t *testing.T) {
	d := &dhcpClient{link: &link{MAC: mac{1, 2, 3, 4, 5, 6}}, xid: 9}
	good := func() *dhcpMessage {
		return &dhcpMessage{Op: 2, XID: 9, MAC: d.link.MAC, Your: must(parseAddr("10.0.0.4")), Options: map[byte][]byte{optType: {dhcpAck}, optMask: {255, 255, 255, 0}, optServerID: {1, 2, 3, 4}}}
	}
	request := d.message(dhcpRequest)
	if why := d.unsound(request, good()); why != "" {
		t.Fatal(why)
	}
	for name, spoil := range map[string]func(*dhcpMessage){
		"op": func(m *dhcpMessage) { m.Op = 1 }, "xid": func(m *dhcpMessage) { m.XID++ }, "mac": func(m *dhcpMessage) { m.MAC[0]++ },
		"type": func(m *dhcpMessage) { m.Options[optType] = []byte{dhcpOffer} }, "address": func(m *dhcpMessage) { m.Your = addrFrom4([4]byte{}) },
		"multicast": func(m *dhcpMessage) { m.Your = must(parseAddr("224.0.0.1")) }, "mask": func(m *dhcpMessage) { m.Options[optMask] = []byte{255, 0, 255, 0} },
	} {
		m := good()
		spoil(m)
		if d.unsound(request, m) == "" {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestLeaseTimes(t *testing.T) {
	d := &dhcpMessage{Options: map[byte][]byte{optLeaseTime: {0, 0, 14, 16}, optT1: {255, 255, 255, 255}}}
	if d.duration(optLeaseTime) != time.Hour || d.duration(optT1) != 0 || d.duration(optT2) != 0 {
		t.Error("durations")
	}
}

func FuzzDHCP(f *testing.F) {
	f.Add(azureACK())
	f.Add(udpPacket(must(parseAddr("1.2.3.4")), must(parseAddr("5.6.7.8")), azureACK()))
	f.Fuzz(func(t *testing.T, b []byte) {
		udpPayload(b, 68, false)
		d, err := parseDHCP(b)
		if err != nil {
			return
		}
		d.json()
		for _, r := range d.routes() {
			if !r.Dst.IsValid() || r.Dst.Masked() != r.Dst {
				t.Errorf("route %v", r)
			}
		}
		for _, name := range append(d.search(), d.text(optDomain)) {
			if strings.ContainsAny(name, " \n\t;#") {
				t.Errorf("name %q", name)
			}
		}
	})
}

func FuzzNetlinkLink(f *testing.F) {
	b := ifinfomsg(3, 0x1003, 0)
	b = append(b, 9, 0, 3, 0, 'e', 't', 'h', '0', 0, 0, 0, 0, 10, 0, 1, 0, 1, 2, 3, 4, 5, 6, 0, 0, 8, 0, 4, 0, 220, 5, 0, 0)
	b = append(b, 16, 0, 18, 0, 9, 0, 1, 0, 'v', 'e', 't', 'h', 0, 0, 0, 0)
	if l, err := decodeLink(b); err != nil || l.Name != "eth0" || l.Index != 3 || l.MTU != 1500 || l.Kind != "veth" || l.MAC != (mac{1, 2, 3, 4, 5, 6}) {
		f.Fatalf("%+v %v", l, err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeLink(b); err == nil && (l.Name == "" || l.Index <= 0) {
			t.Errorf("%+v", l)
		}
	})
}
