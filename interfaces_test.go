package main

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlanNames(t *testing.T) {
	// An interface is written as name, and ! if someone else has brought it up.
	for name, c := range map[string]struct {
		ordered, others, want string
	}{
		"as they are":            {"eth0 eth1 eth2", "lo!", ""},
		"two swap":               {"eth1 eth0", "", "eth1>azp1 eth0>azp2 azp1>eth0 azp2>eth1"},
		"a ring":                 {"eth1 eth2 eth0", "", "eth1>azp1 eth2>azp2 eth0>azp3 azp1>eth0 azp2>eth1 azp3>eth2"},
		"a free name":            {"eth3", "", "eth3>eth0"},
		"one after the other":    {"eth1 eth2", "", "eth1>azp1 azp1>eth0 eth2>eth1"},
		"udev's names stay":      {"enP1s0 eth0", "", "eth0>eth1"},
		"who is up stays":        {"eth1! eth0", "", "eth0>eth2"},
		"a foreign name":         {"eth1", "eth0!", ""},
		"a function in between":  {"eth0 eth2 eth3", "eth1!", ""},
		"cut off half way":       {"azp2 azp3", "", "azp2>eth0 azp3>eth1"},
		"an administrator's one": {"lan0", "", ""},
		"not a number":           {"eth0.5 ethx", "", ""},
	} {
		parse := func(text string, first int) (list []*link) {
			for i, w := range strings.Fields(text) {
				l := &link{Index: first + i, Name: strings.TrimSuffix(w, "!")}
				if l.Name != w {
					l.Flags = unix.IFF_UP
				}
				list = append(list, l)
			}
			return list
		}
		ordered := parse(c.ordered, 1)
		all := append(parse(c.others, 100), ordered...)
		// The renames are done here as a kernel would: no two may have one name.
		var got []string
		for _, mv := range planNames(all, ordered) {
			if slices.ContainsFunc(all, func(l *link) bool { return l.Name == mv.name }) {
				t.Errorf("%s: %s is taken", name, mv.name)
			}
			got = append(got, mv.link.Name+">"+mv.name)
			mv.link.Name = mv.name
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

// eightNICs describes a VM whose primary interface is in the middle of the others.
func eightNICs(b *guestBox) {
	b.vm["mac"] = "00:0d:3a:04:76:35"
	var nics []any
	for i := range 7 {
		nics = append(nics, map[string]any{"mac": fmt.Sprintf("00:0d:3a:04:76:%d0", i+1)})
	}
	b.vm["nics"] = nics
}

// namesByMAC reads the output of ip -br link.
func namesByMAC(output string) string {
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^(\w+)@\S+ +\w+ +(00:0d:3a:\S+)`).FindAllStringSubmatch(output, -1) {
		list = append(list, m[2]+"="+m[1])
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestNamesAreStable(t *testing.T) {
	b := newBox(t)
	eightNICs(b)
	rng := rand.New(rand.NewPCG(6, 20))
	want := "00:0d:3a:04:76:10=eth1 00:0d:3a:04:76:20=eth2 00:0d:3a:04:76:30=eth3 00:0d:3a:04:76:35=eth0 " +
		"00:0d:3a:04:76:40=eth4 00:0d:3a:04:76:50=eth5 00:0d:3a:04:76:60=eth6 00:0d:3a:04:76:70=eth7"
	for boot := range 20 {
		b.vm["nicOrder"] = rng.Perm(8)
		forget := ""
		if boot%2 == 1 { // as if the state were not kept
			forget = "rm /var/lib/azprov/interfaces; "
		}
		o := b.run("", forget+"/opt/azprov; code=$?; ip -br link; ip -br addr show dev eth0; ip route; exit $code")
		if o.code != exitOK || namesByMAC(o.output) != want || !strings.Contains(o.output, "10.1.0.4/24") || strings.Count(o.output, "default via") != 1 {
			t.Errorf("boot %d, order %v: exit %d\n%s", boot, b.vm["nicOrder"], o.code, o.output)
		}
		if boot == 0 && o.reports() != "Ready" {
			t.Errorf("reports %q\n%s", o.reports(), o.output)
		}
	}
}

func TestNamesAreKept(t *testing.T) {
	b := newBox(t)
	eightNICs(b)
	b.vm["nicOrder"] = []int{3, 1, 2, 0, 4, 5, 6, 7}
	for _, flags := range []string{"-names keep", "-interface eth3"} {
		o := b.run("", "/opt/azprov "+flags+"; code=$?; ip -br link; exit $code")
		if o.code != exitOK || !strings.Contains(o.output, "via eth3") || !strings.Contains(namesByMAC(o.output), "00:0d:3a:04:76:35=eth3") {
			t.Errorf("%s: exit %d\n%s", flags, o.code, o.output)
		}
	}
	// What is up is in use.
	o := b.run("", "ip link set eth0 up; ip addr add 192.0.2.7/24 dev eth0; /opt/azprov -interface eth3; ip link set eth2 up; ip link set eth3 down; ip addr flush dev eth3; /opt/azprov -interfaces all; ip -br link; ip -br addr show eth0")
	if !strings.Contains(namesByMAC(o.output), "00:0d:3a:04:76:30=eth0") || !strings.Contains(o.output, "192.0.2.7/24") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}

func TestFunctionsAreNeverChosen(t *testing.T) {
	b := newBox(t)
	b.vm["driver"], b.vm["function"] = driverNetvsc, "mlx5_core"
	b.vm["nics"] = []any{map[string]any{"driver": driverNetvsc, "function": "mana"}, map[string]any{"driver": driverNetvsc, "function": "mlx4_core"}}
	b.vm["nicOrder"] = []int{1, 0, 2}
	o := b.run("", "/opt/azprov -interfaces all; code=$?; ip -br link; ip -br addr; exit $code")
	if o.code != exitOK || o.reports() != "Ready" {
		t.Fatalf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
	for _, want := range []string{`(?m)^enP40000s1@\S+ +DOWN +00:0d:3a:04:75:98`, `(?m)^enP40001s1@\S+ +DOWN +\S+:76:01`, `(?m)^enP40002s1@\S+ +DOWN \s*$`,
		`(?m)^eth0@\S+ +\w+ +10\.1\.0\.4/24`, `(?m)^eth1@\S+ +\w+ +10\.1\.1\.4/24`, `(?m)^eth2@\S+ +\w+ +10\.1\.2\.4/24`} {
		if !regexp.MustCompile(want).MatchString(o.output) {
			t.Errorf("no %s in\n%s", want, o.output)
		}
	}
	// A function without a synthetic twin is an interface like any other.
	b = newBox(t)
	b.vm["driver"] = "mana"
	if o := b.run("", "/opt/azprov"); o.code != exitOK || !strings.Contains(o.output, "10.1.0.4/24 via eth0") {
		t.Errorf("alone: exit %d\n%s", o.code, o.output)
	}
}

func TestPrimaryIsWhoLeadsToThePlatform(t *testing.T) {
	answering := map[string]any{}
	silent := map[string]any{"silent": true}
	for name, c := range map[string]struct {
		nics  []any
		order []int
		flags string
		want  []string
	}{
		"answer on the third alone": {[]any{silent, silent}, []int{1, 2, 0}, "", []string{"10.1.0.4/24 via eth0", `default via 10\.1\.0\.1 dev eth0 proto dhcp src 10\.1\.0\.4 \n`}},
		"all answer":                {[]any{answering, answering}, []int{2, 1, 0}, "", []string{"10.1.0.4/24 via eth0"}},
		"all are configured": {[]any{answering, answering}, []int{1, 2, 0}, "-interfaces all", []string{
			`default via 10\.1\.0\.1 dev eth0 proto dhcp src 10\.1\.0\.4 metric 100`, `default via 10\.1\.1\.1 dev eth1 proto dhcp src 10\.1\.1\.4 metric 200`,
			`10\.1\.2\.0/24 dev eth2 .*metric 300`, `"secondary": true`, `"address": "10\.1\.2\.4/24"`}},
	} {
		b := newBox(t)
		b.vm["nics"], b.vm["nicOrder"] = c.nics, c.order
		o := b.run("", "/opt/azprov "+c.flags+"; code=$?; ip route; cat /run/azprov/lease.json; exit $code")
		if o.code != exitOK || o.reports() != "Ready" {
			t.Errorf("%s: exit %d, reports %q\n%s", name, o.code, o.reports(), o.output)
		}
		for _, want := range c.want {
			if !regexp.MustCompile(want).MatchString(o.output) {
				t.Errorf("%s: no %s in\n%s", name, want, o.output)
			}
		}
		if !strings.Contains(c.flags, "all") && regexp.MustCompile(`10\.1\.[12]\.`).MatchString(o.output) {
			t.Errorf("%s: another interface was configured\n%s", name, o.output)
		}
	}
}

func TestPersistentNetRules(t *testing.T) {
	b := newBox(t)
	o := b.run("", `mkdir -p /etc/udev/rules.d; echo 'SUBSYSTEM=="net", ATTR{address}=="00:15:5d:00:00:01", NAME="eth0"' >/etc/udev/rules.d/70-persistent-net.rules; /opt/azprov`)
	if o.code != exitOK || !strings.Contains(o.output, "moved to") || b.file("etc/udev/rules.d/70-persistent-net.rules") != "" ||
		!strings.Contains(b.file("etc/udev/rules.d/70-persistent-net.rules.azprov-disabled"), "00:15:5d") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}

// A second run, when all is configured, changes nothing in the network.
func TestNetworkOfASecondRun(t *testing.T) {
	b := newBox(t)
	b.vm["nics"] = []any{map[string]any{}, map[string]any{}}
	o := b.run("", "/opt/azprov -interfaces all >/dev/null 2>&1; ip route >/tmp/1; ip addr | grep -v valid_lft >>/tmp/1; ip monitor link address route >/tmp/mon & mon=$!; sleep 0.3; rm -rf /var/lib/azprov; cp /run/azprov/lease.json /tmp/lease; /opt/azprov -interfaces all; code=$?; sleep 0.2; diff /tmp/lease /run/azprov/lease.json; kill $mon; ip route >/tmp/2; ip addr | grep -v valid_lft >>/tmp/2; diff /tmp/1 /tmp/2 && cat /tmp/mon; exit $code")
	if o.code != exitOK || o.reports() != "Ready Ready" || strings.Contains(o.output, "mtu") || strings.Contains(o.output, "Deleted") {
		t.Errorf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
}

func TestNetworkOfTheMetadataService(t *testing.T) {
	b := newBox(t)
	b.vm["more"] = []any{"10.1.0.7/24", "10.1.0.8/24"}
	b.vm["nics"] = []any{map[string]any{"mac": "00:0d:3a:04:76:70", "more": []any{"10.1.1.9/24"}}, map[string]any{"mac": "00:0d:3a:04:76:10"}}
	// Not the order of addresses.
	want := "00:0d:3a:04:75:98=eth0 00:0d:3a:04:76:10=eth2 00:0d:3a:04:76:70=eth1"
	for boot, order := range [][]int{{0, 2, 1}, {2, 1, 0}} {
		b.vm["nicOrder"] = order
		o := b.run("", "/opt/azprov -imds.wait 5s -interfaces all -names imds -imds.addresses yes; code=$?; ip -br link; ip -br addr; exit $code")
		if o.code != exitOK || namesByMAC(o.output) != want {
			t.Errorf("boot %d: exit %d\n%s", boot, o.code, o.output)
		}
		for _, want := range []string{`(?m)^eth0.* 10\.1\.0\.4/24 .*10\.1\.0\.7/24 .*10\.1\.0\.8/24`, `(?m)^eth1.* 10\.1\.1\.4/24 .*10\.1\.1\.9/24`} {
			if !regexp.MustCompile(want).MatchString(o.output) {
				t.Errorf("boot %d: no %s in\n%s", boot, want, o.output)
			}
		}
	}
}

func TestFollowHostName(t *testing.T) {
	b := newBox(t)
	if o := b.run("", "/opt/azprov -hostname.follow yes"); o.code != exitOK {
		t.Fatalf("exit %d\n%s", o.code, o.output)
	}
	b.vm["hostname"] = "edge-renamed"
	o := b.run("", "hostname edge-fra-07; /opt/azprov; hostname; /opt/azprov -hostname.follow yes; code=$?; hostname; "+resolves("edge-renamed")+"; exit $code")
	if o.code != exitOK || !strings.Contains(o.output, "\nedge-fra-07\n") || !strings.Contains(o.output, "\nedge-renamed\n") || !strings.Contains(o.output, "edge-renamed resolves") || b.file("etc/hostname") != "edge-renamed\n" {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	if o.reports() != "" {
		t.Errorf("reports %q", o.reports())
	}
}
