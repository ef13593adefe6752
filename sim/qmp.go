package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// firstNIC is the id of a machine's network card in QEMU; one that replaces it
// is secondNIC.
const (
	firstNIC  = "nic0"
	secondNIC = "nic1"
)

// qmp gives QEMU one order (docs/interop/qmp-spec) and returns its error.
func qmp(socket, command string, arguments map[string]any) error {
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	in := json.NewDecoder(conn)
	var greeting json.RawMessage
	if err := in.Decode(&greeting); err != nil {
		return err
	}
	order := map[string]any{"execute": command}
	if arguments != nil {
		order["arguments"] = arguments
	}
	for _, o := range []map[string]any{{"execute": "qmp_capabilities"}, order} {
		if err := json.NewEncoder(conn).Encode(o); err != nil {
			return err
		}
		for { // events come between
			var reply struct {
				Return *json.RawMessage
				Error  *struct{ Class, Desc string }
			}
			if err := in.Decode(&reply); err != nil {
				return err
			}
			if reply.Error != nil {
				return fmt.Errorf("QEMU: %s: %s", command, reply.Error.Desc)
			}
			if reply.Return != nil {
				break
			}
		}
	}
	return nil
}

// unplugPatience is how long a guest may take to let go of a card.
const unplugPatience = time.Minute

// machineSwitch changes the network of a virtual machine as a kind of
// pre-provisioned VM asks for.
func (p *Platform) machineSwitch(m *Machine) func(string, *VM) error {
	return func(kind string, became *VM) error {
		address := func() error {
			return ip("addr", "replace", fmt.Sprintf("%s/%d", became.Gateway, became.address().Bits()), "dev", m.Tap)
		}
		switch kind {
		case "Running":
			if err := qmp(m.Monitor, "set_link", map[string]any{"name": firstNIC, "up": false}); err != nil {
				return err
			}
			err := address()
			time.Sleep(time.Second)
			return errors.Join(err, qmp(m.Monitor, "set_link", map[string]any{"name": firstNIC, "up": true}))
		case "Savable":
			if err := errors.Join(qmp(m.Monitor, "device_del", map[string]any{"id": firstNIC}), address()); err != nil {
				return err
			}
			// The order is only heard by the guest: until it has let go, the network is in use.
			for end := time.Now().Add(unplugPatience); ; time.Sleep(200 * time.Millisecond) {
				err := qmp(m.Monitor, "device_add", map[string]any{"driver": "virtio-net-pci", "id": secondNIC, "netdev": "net", "romfile": "", "mac": became.MAC})
				if err == nil || time.Now().After(end) {
					return err
				}
			}
		}
		return qmp(m.Monitor, "quit", nil)
	}
}
