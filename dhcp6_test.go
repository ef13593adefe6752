package main

import (
	"encoding/hex"
	"regexp"
	"strings"
	"testing"
)

// advertise6 is what dnsmasq has answered to a SOLICIT: client id, server id, an
// IA_NA with an address and a status, preference, DNS servers.
func advertise6(t testing.TB) []byte {
	b, err := hex.DecodeString("02a1b2c3" + "0001000a00030001000d3a047598" + "0002000e000100012cab12340200000000ff" +
		"000300283a047598" + "0000070800000c4e" + "00050018" + "fd000001000000000000000000000044" + "00000e1000000e10" + "0007000100")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeDHCP6(t *testing.T) {
	m, err := decodeDHCP6(advertise6(t))
	if err != nil {
		t.Fatal(err)
	}
	a, ia, err := m.address()
	if err != nil || m.Kind != dhcp6Advertise || a.String() != "fd00:1::44" || len(ia) != 40 || m.XID != [3]byte{0xa1, 0xb2, 0xc3} {
		t.Errorf("%v %+v %v", a, m, err)
	}
	whole := advertise6(t)
	for cut := range whole {
		if m, err := decodeDHCP6(whole[:cut]); err == nil {
			m.address() // must not panic
		}
	}
	for name, v := range map[string]string{
		"no address there":  "00030010" + "3a047598" + "0000000000000000" + "000d0000",
		"a failure":         "000d0002" + "0002",
		"not for the world": "000300283a047598" + "0000000000000000" + "00050018" + "fe800000000000000000000000000044" + "00000e1000000e10",
		"no time left":      "000300283a047598" + "0000000000000000" + "00050018" + "fd000001000000000000000000000044" + "0000000000000000",
		"status of the ia":  "0003002e3a047598" + "0000000000000000" + "00050018" + "fd000001000000000000000000000044" + "00000e1000000e10" + "000d0002" + "0006",
	} {
		b, err := hex.DecodeString("02a1b2c3" + v)
		if err != nil {
			t.Fatal(name, err)
		}
		if m, err := decodeDHCP6(b); err == nil {
			if a, _, err := m.address(); err == nil {
				t.Errorf("%s: %v was taken", name, a)
			}
		}
	}
}

func FuzzDHCP6(f *testing.F) {
	f.Add(advertise6(f))
	f.Add([]byte{7, 1, 2, 3, 0, 13, 0, 2, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeDHCP6(b)
		if err != nil {
			return
		}
		if a, _, err := m.address(); err == nil && (!a.Is6() || a.IsLinkLocalUnicast() || a.IsUnspecified()) {
			t.Errorf("address %v", a)
		}
	})
}

func TestIPv6(t *testing.T) {
	b := newBox(t)
	b.vm["ipv6"] = "fd00:1::44"
	o := b.run(`{"service":"dhcp6","count":1,"action":"drop"}`, "/opt/azprov; code=$?; ip -6 addr show dev eth0; ip -6 route; cat /run/azprov/lease.json; exit $code")
	for _, want := range []string{`ipv6 +fd00:1::44 via eth0`, `inet6 fd00:1::44/128 scope global`, `default via fe80::\S+ dev eth0 proto ra`, `"fd00:1::44/128"`} {
		if !regexp.MustCompile(want).MatchString(o.output) {
			t.Errorf("no %s in\n%s", want, o.output)
		}
	}
	// Ready does not wait for it.
	ready, given := -1, -1
	for i, e := range o.events {
		if e.State == "Ready" {
			ready = i
		}
		if e.Service == "dhcp6" && e.Type == "REQUEST" {
			given = i
		}
	}
	if o.code != exitOK || ready < 0 || given < ready {
		t.Errorf("exit %d, Ready is event %d, the IPv6 address event %d", o.code, ready, given)
	}
	// A later boot has no metadata but knows.
	if o = b.run("", "/opt/azprov -imds no; ip -6 addr show dev eth0"); !strings.Contains(o.output, "inet6 fd00:1::44/128") {
		t.Errorf("later boot:\n%s", o.output)
	}
	if o = b.run("", "/opt/azprov -ipv6 no; ip -6 addr show dev eth0"); strings.Contains(o.output, "fd00:1::44") {
		t.Errorf("switched off:\n%s", o.output)
	}
}

// The client is understood by another server than the simulated one.
func TestIPv6OfDnsmasq(t *testing.T) {
	need(t, "dnsmasq")
	b := newBox(t)
	// The server stands at the other end of a pair in a network of its own.
	o := b.run("", `mkdir -p /run/netns /var/lib/misc
touch /run/netns/router; unshare --net=/run/netns/router true
ip link add lan0 type veth peer name lan1 netns router; ip link set lan0 address 00:0d:3a:09:09:09; 
nsenter --net=/run/netns/router sh -c 'ip link set lo up; ip link set lan1 up; ip addr add fd00:9::1/64 dev lan1 nodad; ip addr add 10.9.0.1/24 dev lan1
dnsmasq -k -u root --port=0 --conf-file=/dev/null --pid-file= --interface=lan1 --bind-interfaces --dhcp-range=10.9.0.40,10.9.0.60 --dhcp-range=fd00:9::40,fd00:9::60,64,12h --enable-ra --ra-param=lan1,2 --log-dhcp --log-facility=/tmp/dnsmasq.log --dhcp-leasefile=/tmp/leases' >/tmp/out 2>&1 &
sleep 1; /opt/azprov -interface lan0 -only ipv6 -ipv6 yes -network.wait 20s; ip -6 addr show dev lan0; ip -6 route; cat /tmp/leases /tmp/out /tmp/dnsmasq.log; kill $!`)
	if !regexp.MustCompile(`inet6 fd00:9::\w+/128 scope global`).MatchString(o.output) || !strings.Contains(o.output, "DHCPREPLY(lan1)") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}
