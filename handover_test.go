package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestHandoverFiles(t *testing.T) {
	for name, c := range map[string]struct {
		prepare, flags, look string
		want, not            []string
	}{
		"nothing there": {"", "", "ls /run /run/systemd /etc/network 2>/dev/null", nil, []string{"net-eth0", "systemd", "interfaces"}},
		"networkd": {"mkdir -p /etc/systemd/system; : >/etc/systemd/system/dbus-org.freedesktop.network1.service", "", "cat /run/systemd/network/*",
			[]string{`MACAddress=00:0d:3a:04:75:98\n`, `DHCP=ipv4`, `KeepConfiguration=yes`}, []string{"RouteMetric"}},
		"all of networkd": {"", "-network.write networkd -interfaces all", "cat /run/systemd/network/*eth1*", []string{`RouteMetric=200`, `UseDNS=no`}, nil},
		"networkmanager":  {"", "-network.write networkmanager", "stat -c %a /run/NetworkManager/system-connections/*; cat /run/NetworkManager/system-connections/*", []string{`(?m)^600$`, `mac-address=00:0d:3a:04:75:98`, `method=auto`}, nil},
		"interfaces": {"mkdir -p /etc/network; printf 'auto lo\\niface lo inet loopback' >/etc/network/interfaces", "", "/opt/azprov >/dev/null 2>&1; cat /etc/network/interfaces",
			[]string{`(?s)^auto lo\niface lo inet loopback\n\n# by azprov\nauto eth0\niface eth0 inet dhcp\n$`}, nil},
		"interfaces of an administrator": {"mkdir -p /etc/network; printf 'iface eth0 inet static\\n' >/etc/network/interfaces", "", "cat /etc/network/interfaces", []string{`^iface eth0 inet static\n$`}, nil},
		"klibc": {"", "-network.write klibc", "set -u; . /run/net-eth0.conf; echo $DEVICE $IPV4ADDR $IPV4NETMASK $IPV4BROADCAST $IPV4GATEWAY $IPV4DNS0 $HOSTNAME $DNSDOMAIN $DHCPLEASETIME",
			[]string{`^eth0 10\.1\.0\.4 255\.255\.255\.0 10\.1\.0\.255 10\.1\.0\.1 168\.63\.129\.16 edge-fra-07 ` + regexp.QuoteMeta(testDomain) + ` 4294967295\n`}, nil},
		"none": {"mkdir -p /etc/network; : >/etc/network/interfaces", "-network.write none", "cat /etc/network/interfaces", nil, []string{"eth0"}},
	} {
		b := newBox(t)
		b.vm["nics"] = []any{map[string]any{}}
		o := b.run("", c.prepare+"\n/opt/azprov "+c.flags+" || exit; echo LOOK; "+c.look)
		_, text, _ := strings.Cut(o.output, "LOOK\n")
		for _, want := range c.want {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("%s: no %s in\n%s", name, want, o.output)
			}
		}
		for _, not := range c.not {
			if strings.Contains(text, not) {
				t.Errorf("%s: %s in\n%s", name, not, o.output)
			}
		}
	}
}

// busybox's ifup reads the file that azprov writes, and systemd-networkd takes
// the interface over without losing its address.
func TestHandoverIsUnderstood(t *testing.T) {
	need(t, "busybox")
	b := newBox(t)
	o := b.run("", "/opt/azprov -network.write interfaces >/dev/null 2>&1; ip link set eth0 down; busybox ifup -n -a 2>&1")
	if !strings.Contains(o.output, "udhcpc") || !strings.Contains(o.output, "eth0") {
		t.Errorf("ifup:\n%s", o.output)
	}
	const networkd = "/usr/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		t.Log("systemd-networkd is not there to judge")
		return
	}
	// It wants to know from udev that the interfaces are complete.
	b = newBox(t)
	o = b.run("", `exec 2>&1; /opt/azprov -network.write networkd >/dev/null || exit; mkdir -p /run/udev/data; for i in 1 2; do echo I:1000 >/run/udev/data/n$i; done
echo 0123456789abcdef0123456789abcdef >/etc/machine-id; ip monitor address route >/tmp/mon & mon=$!
timeout 20 env SYSTEMD_LOG_LEVEL=debug `+networkd+` >/tmp/networkd & for i in $(seq 150); do grep -q 'DHCPv4 address' /tmp/networkd && break; sleep 0.1; done
sleep 0.5; kill $mon; grep eth0 /tmp/networkd; ip route; echo MONITOR; cat /tmp/mon`)
	_, monitor, _ := strings.Cut(o.output, "MONITOR\n")
	if !strings.Contains(o.output, "Configuring with /run/systemd/network/70-azprov-eth0.network") || !strings.Contains(o.output, "DHCPv4 address 10.1.0.4/24") ||
		regexp.MustCompile(`Deleted.* (inet 10\.1\.0\.4|168\.63\.129\.16|default)`).MatchString(monitor) {
		t.Errorf("networkd:\n%s", o.output)
	}
}

func TestNetworkIsReleased(t *testing.T) {
	b := newBox(t)
	b.vm["nics"], b.vm["mtu"] = []any{map[string]any{}}, 1400
	const state = "ip route show table all | grep -v ' ff00::\\| fe80::' ; ip -o addr | grep -v fe80; ip -o link | sed 's/qdisc.*//'"
	o := b.run("", "exec 2>&1; ("+state+") >/tmp/1; /opt/azprov -network release -interfaces all || exit; ("+state+") >/tmp/2; diff /tmp/1 /tmp/2 && echo SAME; ls /run/azprov")
	if o.code != exitOK || o.reports() != "Ready" || !strings.Contains(o.output, "SAME") || strings.Contains(o.output, "lease.json") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	// What was there before stays: an address (the kernel drops the routes of an
	// interface with its last one), a route and the interface's state.
	b = newBox(t)
	o = b.run("", "exec 2>&1; ip link set eth0 up; ip addr add 169.254.7.7/16 dev eth0; ip route add 203.0.113.0/24 dev eth0; ("+state+") >/tmp/1; /opt/azprov -network release || exit; ("+state+") >/tmp/2; diff /tmp/1 /tmp/2 && echo SAME")
	if !strings.Contains(o.output, "SAME") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}
