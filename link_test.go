package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCandidates(t *testing.T) {
	const running = unix.IFF_UP | unix.IFF_LOWER_UP
	nic := func(name string, index int, last byte, flags uint32) *link {
		return &link{Name: name, Index: index, MAC: mac{0, 0x0d, 0x3a, 0, 0, last}, Flags: flags, Type: unix.ARPHRD_ETHER}
	}
	drivers := map[string]string{"hv0": driverNetvsc, "hv1": driverNetvsc, "vf0": "mlx5_core", "vf1": "mana", "alone": "mlx5_core", "virtio": "virtio_net"}
	kind := func(l *link, kind string) *link { l.Kind = kind; return l }
	paths := map[string]string{"hv0": "vmbus/b0", "hv1": "vmbus/a0"}
	for name, c := range map[string]struct {
		links     []*link
		configure string
		want      string // candidates in order
	}{
		"virtual function comes first":  {[]*link{nic("vf0", 2, 1, running), nic("hv0", 3, 1, running)}, "", "hv0"},
		"virtual function, no carrier":  {[]*link{nic("vf0", 2, 1, running), nic("hv0", 3, 1, unix.IFF_UP)}, "", "hv0"},
		"order of the bus":              {[]*link{nic("hv0", 2, 1, unix.IFF_UP), nic("hv1", 3, 2, running), nic("vf1", 4, 2, running)}, "", "hv1 hv0"},
		"synthetic alone, others there": {[]*link{nic("virtio", 2, 3, running), nic("hv0", 3, 1, running)}, "", "hv0"},
		"a lone function":               {[]*link{nic("alone", 2, 1, running)}, "", "alone"},
		"a lone function beside a pair": {[]*link{nic("alone", 2, 9, running), nic("hv0", 3, 1, running), nic("vf0", 4, 1, running)}, "", "hv0"},
		"a function that is a slave":    {[]*link{nic("alone", 2, 1, running|unix.IFF_SLAVE)}, "", ""},
		"named":                         {[]*link{nic("hv0", 2, 1, running), nic("virtio", 3, 3, 0)}, "virtio", "virtio"},
		"named, missing":                {[]*link{nic("hv0", 2, 1, running)}, "eth9", ""},
		"loopback, tunnels and bridges": {[]*link{{Name: "lo", Index: 1, Flags: running | unix.IFF_LOOPBACK, Type: unix.ARPHRD_LOOPBACK}, kind(nic("br0", 2, 4, running), "bridge"), kind(nic("dummy0", 3, 5, running), "dummy"), {Name: "wg0", Index: 4, Type: unix.ARPHRD_NONE}}, "", ""},
		"hardware alone, veth there":    {[]*link{kind(nic("veth0", 2, 6, running), "veth"), nic("virtio", 7, 3, running)}, "", "virtio"},
		"order of addresses":            {[]*link{nic("b", 5, 1, running), nic("a", 9, 2, running), nic("c", 3, 3, 0)}, "", "b a c"},
		"nothing":                       {nil, "", ""},
	} {
		m := newTestMachine(t)
		m.cfg.Interface = c.configure
		for nic, driver := range drivers {
			device := filepath.Join(m.sysfs, "class/net", nic, "device")
			if path := paths[nic]; path != "" {
				device = filepath.Join(m.sysfs, "devices", path, "net", nic, "device")
				if err := errors.Join(os.MkdirAll(filepath.Join(m.sysfs, "class/net"), 0o755), os.Symlink("../../devices/"+path+"/net/"+nic, filepath.Join(m.sysfs, "class/net", nic))); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.MkdirAll(device, 0o755), os.Symlink("../../../../bus/drivers/"+driver, device+"/driver")); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, l := range m.candidates(c.links) {
			got = append(got, l.Name)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

func TestChooseLinkOfTwins(t *testing.T) {
	if testing.Short() {
		t.Skip("builds binaries")
	}
	b := newBox(t)
	// The twin of eth0 has its address and the name of a driver in the fixture; the
	// synthetic one is down and nobody has given it an address.
	o := b.run("", `mkdir -p /tmp/sys/class/net; cp -a /sys/class/dmi /tmp/sys/class/ 2>/dev/null
for pair in eth0:hv_netvsc vf0:mlx5_core; do mkdir -p /tmp/sys/class/net/${pair%:*}/device; ln -s /d/${pair#*:} /tmp/sys/class/net/${pair%:*}/device/driver; done
ip link add vf0 type veth peer name vf0p; ip link set vf0 address $(cat /sys/class/net/eth0/address); ip link set vf0 up; ip link set vf0p up
/opt/azprov -sysfs /tmp/sys -force yes; code=$?; ip -br addr show vf0; ip -br addr show eth0; exit $code`)
	if o.code != exitOK || o.reports() != "Ready" || !strings.Contains(o.output, "10.1.0.4/24 via eth0") || strings.Count(o.output, "10.1.0.4") != 2 {
		t.Errorf("exit %d, %q\n%s", o.code, o.reports(), o.output)
	}
}

func TestChooseLinkWaitsForOne(t *testing.T) {
	b := newBox(t)
	o := b.run("", "ip link set eth0 down; ip link set eth0 name hidden; (sleep 0.5; ip link set hidden name eth7) & /opt/azprov -interface eth7 -network.wait 10s")
	if o.code != exitOK || !strings.Contains(o.output, "via eth7") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	o = b.run("", "/opt/azprov -interface eth9 -network.wait 300ms -deadline 1s")
	if o.code != exitOK || !strings.Contains(o.output, "wait for eth9") || !strings.Contains(o.output, "network is not as it should be") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}
