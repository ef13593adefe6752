package sim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// NIC is a further network interface of a VM; the first one is described by the
// VM's own members.
type NIC struct {
	MAC         string `json:"mac"`
	Address     string `json:"address"` // with prefix length
	Gateway     string `json:"gateway"`
	MTU         int    `json:"mtu"`
	RouteOption int    `json:"routeOption"` // as the VM's, but 3 unless given
	Hardware
}

// Hardware is what the guest sees of an interface besides its address.
type Hardware struct {
	// Silent leaves DHCP requests without an answer.
	Silent bool `json:"silent,omitempty"`
	// Driver is the name of the driver in the guest's /sys, "" for none.
	Driver string `json:"driver,omitempty"`
	// Function is the driver of a virtual function with the same MAC address, which
	// stands beside the interface as with accelerated networking; "" for none.
	Function string `json:"function,omitempty"`
	// More are further IPv4 addresses, with prefix length, that only the metadata
	// service tells.
	More []string `json:"more,omitempty"`
}

// defaults fills in what the description of the nth further interface leaves out.
func (n *NIC) defaults(i int) error {
	if n.MAC == "" {
		n.MAC = fmt.Sprintf("00:0d:3a:04:76:%02x", i)
	}
	if n.Address == "" {
		n.Address = fmt.Sprintf("10.1.%d.4/24", i)
	}
	if n.RouteOption == 0 {
		n.RouteOption = 3
	}
	_, err := net.ParseMAC(n.MAC)
	return err
}

// asVM is the VM as DHCP sees it on a further interface.
func (vm *VM) asVM(n *NIC) (*VM, error) {
	other := *vm
	other.MAC, other.Address, other.Gateway, other.MTU, other.RouteOption = n.MAC, n.Address, n.Gateway, n.MTU, n.RouteOption
	other.Hardware, other.NICs, other.NoOption245, other.IPv6, other.Impair = n.Hardware, nil, true, "", nil
	return &other, other.Defaults(0)
}

// interfaces returns the VM once for each of its network interfaces.
func (vm *VM) interfaces() ([]*VM, error) {
	list := []*VM{vm}
	for i := range vm.NICs {
		other, err := vm.asVM(&vm.NICs[i])
		if err != nil {
			return nil, fmt.Errorf("nic %d: %w", i+1, err)
		}
		list = append(list, other)
	}
	return list, nil
}

// network is the metadata service's list of the VM's interfaces.
func (vm *VM) network() map[string]any {
	list := []any{}
	all, _ := vm.interfaces()
	for _, nic := range all {
		addresses, six := []any{}, []any{}
		for _, a := range append([]string{nic.Address}, nic.More...) {
			host, _, _ := strings.Cut(a, "/")
			addresses = append(addresses, map[string]any{"privateIpAddress": host, "publicIpAddress": ""})
		}
		if nic.IPv6 != "" {
			six = append(six, map[string]any{"privateIpAddress": nic.IPv6})
		}
		list = append(list, map[string]any{
			"macAddress": strings.ToUpper(strings.ReplaceAll(nic.MAC, ":", "")),
			"ipv4": map[string]any{"ipAddress": addresses,
				"subnet": []any{map[string]any{"address": nic.address().Masked().Addr().String(), "prefix": strconv.Itoa(nic.address().Bits())}}},
			"ipv6": map[string]any{"ipAddress": six},
		})
	}
	return map[string]any{"interface": list}
}

// guestNIC is an interface as it is made in the guest.
type guestNIC struct{ name, driver, path string }

// plug makes the interfaces of the guest whose process is pid, and the host's ends
// of them, which it returns. The kernel names them eth0, eth1, ... in the order
// in which they are made: the VM's NICOrder.
func plug(all []*VM, pid string) (devices []string, err error) {
	made := madeNICs(all)
	var batch strings.Builder
	do := func(format string, args ...any) { fmt.Fprintf(&batch, format+"\n", args...) }
	for k, i := range nicOrder(all) {
		nic, host := all[i], "host"+strconv.Itoa(i)
		if nic.Function != "" { // the function may come first
			do("link add name %svf type veth peer name %s address %s netns %s", host, made[2*k+1].name, nic.MAC, pid)
			do("link set %svf up", host)
			devices = append(devices, host+"vf")
		}
		bad := i == 0 && nic.Impair != nil
		if bad {
			do("link add name relay0 type veth peer name %s address %s netns %s", made[2*k].name, nic.MAC, pid)
			do("link add name %s type veth peer name relay1", host)
			do("link set relay0 up addrgenmode none")
			do("link set relay1 up addrgenmode none")
		} else {
			do("link add name %s type veth peer name %s address %s netns %s", host, made[2*k].name, nic.MAC, pid)
		}
		do("addr add %s/%d dev %s", nic.Gateway, nic.address().Bits(), host)
		if i == 0 {
			do("addr add %s/32 dev %s", WireServerAddress, host)
			do("addr add %s/32 dev %s", MetadataAddress, host)
		}
		do("link set %s up", host)
		if nic.address().Bits() == 32 {
			do("route add %s dev %s", nic.address().Addr(), host)
		}
		devices = append(devices, host)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ip -batch: %s: %w", strings.TrimSpace(string(out)), err)
	}
	if all[0].Impair != nil {
		if err := errors.Join(checksumInSoftware("host0"), relay(all[0].Impair, "relay0", "relay1")); err != nil {
			return nil, err
		}
	}
	return devices, nil
}

// nicOrder is the order in which the kernel finds the interfaces.
func nicOrder(all []*VM) []int {
	if order := all[0].NICOrder; len(order) == len(all) {
		return order
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	return order
}

// madeNICs names the guest's interfaces in the order in which they are made: for
// each the synthetic one and its function, whose name is empty if it has none.
func madeNICs(all []*VM) (list []guestNIC) {
	for k, i := range nicOrder(all) {
		nic := all[i]
		mac := strings.ReplaceAll(nic.MAC, ":", "")
		list = append(list, guestNIC{"eth" + strconv.Itoa(k), nic.Driver, "vmbus/" + mac[:8] + "-" + mac[8:] + "-" + mac[:4]})
		vf := guestNIC{}
		if nic.Function != "" {
			vf = guestNIC{fmt.Sprintf("enP%ds1", 40000+i), nic.Function, fmt.Sprintf("pci%04x:00/0000:00:02.0", i)}
		}
		list = append(list, vf)
	}
	return list
}

// mirrorNet keeps class/net of the guest's /sys as it would be if its interfaces
// had the drivers and places that the VM's description gives them, also when they
// are renamed. It is only needed when there are such.
func mirrorNet(sys string, all []*VM) error {
	type place struct{ driver, path string }
	places := map[int]place{}
	for _, n := range madeNICs(all) {
		if n.driver == "" {
			continue
		}
		nic, err := net.InterfaceByName(n.name)
		if err != nil {
			return err
		}
		places[nic.Index] = place{n.driver, n.path}
	}
	if len(places) == 0 {
		return nil
	}
	class := filepath.Join(sys, "class/net")
	if err := unix.Mount("tmpfs", class, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount class/net: %w", err)
	}
	shown := map[int]string{}
	update := func() error {
		nics, err := net.Interfaces()
		if err != nil {
			return err
		}
		now := map[int]string{}
		for _, nic := range nics {
			now[nic.Index] = nic.Name
		}
		for index, name := range shown {
			if now[index] != name {
				os.Remove(filepath.Join(class, name))
				delete(shown, index)
			}
		}
		for _, nic := range nics {
			if shown[nic.Index] == nic.Name {
				continue
			}
			at := places[nic.Index]
			if at.path == "" {
				at.path = "virtual"
			}
			dir := filepath.Join(sys, "devices", at.path, "net", nic.Name)
			if err := os.MkdirAll(dir, 0o755); err != nil && at.path != "virtual" { // there it is the kernel's own
				return err
			}
			if at.driver != "" {
				os.Symlink("../..", filepath.Join(dir, "device"))
				os.Symlink("../../bus/any/drivers/"+at.driver, filepath.Join(sys, "devices", at.path, "driver"))
				os.WriteFile(filepath.Join(dir, "address"), []byte(nic.HardwareAddr.String()+"\n"), 0o444)
			}
			if err := os.Symlink("../../devices/"+at.path+"/net/"+nic.Name, filepath.Join(class, nic.Name)); err != nil {
				return err
			}
			shown[nic.Index] = nic.Name
		}
		return nil
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return err
	}
	if err := update(); err != nil {
		return err
	}
	go func() {
		for {
			if _, err := conn.Receive(); err != nil {
				return
			}
			update()
		}
	}()
	return nil
}
