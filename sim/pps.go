package sim

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// Pre-provisioned VMs: the platform boots them into a pool and gives them to
// customers after they have reported Ready.

// current lists the VMs as they are now.
func (p *Platform) current() []*VM {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.VMs)
}

// assignLater gives a VM that waits in a pool to a customer after a while.
func (p *Platform) assignLater(vm *VM) {
	if len(vm.Assigned) == 0 {
		return
	}
	delay := time.Duration(vm.AssignAfter * float64(time.Second))
	time.AfterFunc(delay, func() {
		if err := p.assign(vm); err != nil {
			fmt.Fprintln(os.Stderr, "azuresim: assign:", err)
		}
	})
}

func (p *Platform) assign(vm *VM) error {
	became, err := vm.with(vm.Assigned)
	if err != nil {
		return err
	}
	kind := vm.PreprovisionedVMType
	if kind == "" {
		kind = "Running"
	}
	became.Assigned, became.Restarted, became.PreprovisionedVM, became.PreprovisionedVMType = nil, false, false, ""
	p.Log.Add(Event{Service: "pool", VM: vm.Hostname, Type: "assign", Name: became.Hostname, Text: kind})
	p.mu.Lock()
	for i := range p.VMs {
		if p.VMs[i] == vm {
			p.VMs[i] = became
		}
	}
	p.given[became] = 2
	p.mu.Unlock()
	if p.Switch == nil {
		return nil
	}
	return p.Switch(kind, became)
}

// reprovisionData is what a VM that has left its pool is provisioned by, until it
// has reported Ready.
func (p *Platform) reprovisionData(vm *VM) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	early, given := p.given[vm]
	if !given || !p.ready[vm].IsZero() {
		return nil
	}
	if early > 0 {
		p.given[vm]--
		return nil
	}
	return vm.OVF()
}

// switchPause is how long the network is away.
const switchPause = 150 * time.Millisecond

// sandboxSwitch changes the network of a sandbox's guest, whose process is pid.
func (p *Platform) sandboxSwitch(pid int, off func() error) func(string, *VM) error {
	return func(kind string, became *VM) error {
		const device = "host0"
		address := [][]string{{"addr", "replace", became.Gateway + "/" + strconv.Itoa(became.address().Bits()), "dev", device}, {"link", "set", device, "up"}}
		var before, after [][]string
		switch kind {
		case "Running":
			before, after = [][]string{{"link", "set", device, "down"}}, address
		case "Savable":
			before = [][]string{{"link", "del", device}}
			after = append([][]string{{"link", "add", "name", device, "type", "veth", "peer", "name", "eth7", "address", became.MAC, "netns", strconv.Itoa(pid)},
				{"addr", "add", WireServerAddress + "/32", "dev", device}, {"addr", "add", MetadataAddress + "/32", "dev", device}}, address...)
		default:
			return off()
		}
		for _, c := range before {
			if err := ip(c...); err != nil {
				return err
			}
		}
		time.Sleep(switchPause)
		for _, c := range after {
			if err := ip(c...); err != nil {
				return err
			}
		}
		if kind != "Savable" {
			return nil
		}
		c, err := p.listenDHCP(device)
		if err == nil {
			go p.serveDHCP(c)
		}
		return err
	}
}
