// Package sim is a simulated Azure host platform: DHCP, DNS, wire server,
// metadata service and provisioning media for VMs that are described by a small
// JSON file, with a log of every request and faults on demand. It is built from
// what public agents and captures show of the real one.
package sim

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// SSHKey is a public key of a VM: by value, or only by the fingerprint of its
// certificate.
type SSHKey struct {
	Value       string `json:"value,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Path        string `json:"path,omitempty"`
}

// VM is what a VM is created with, and the network that it is put into. What is
// left out of the JSON has a default; Defaults fills it in.
type VM struct {
	VMID       string `json:"vmId"`       // SMBIOS product UUID
	Generation int    `json:"generation"` // 1 or 2

	Hostname                      string   `json:"hostname"`
	User                          string   `json:"user"`
	Password                      string   `json:"password"`
	DisablePasswordAuthentication *bool    `json:"disablePasswordAuthentication"`
	SSHKeys                       []SSHKey `json:"sshKeys"`
	KeyPairs                      []SSHKey `json:"keyPairs"`
	Certificates                  []string `json:"certificates"`     // each in PEM, with its private key (PKCS#8) or without
	CustomData                    string   `json:"customData"`       // as text
	CustomDataBase64              string   `json:"customDataBase64"` // or as base64
	UserData                      string   `json:"userData"`
	ProvisionGuestAgent           *bool    `json:"provisionGuestAgent"`
	PreprovisionedVM              bool     `json:"preprovisionedVm"`
	PreprovisionedVMType          string   `json:"preprovisionedVmType"`

	// Assigned is what a pre-provisioned VM becomes when it is given to a customer:
	// members of this description. That happens AssignAfter seconds after the first
	// Ready or, for a VM that has reported it in an earlier run, after the start.
	Assigned    json.RawMessage `json:"assigned"`
	AssignAfter float64         `json:"assignAfter"`
	Restarted   bool            `json:"restarted"`

	// ProvisionData says in which form the wire server has provisioning data, "xml"
	// or "json"; "" for none, as on the real platform of today.
	ProvisionData string `json:"provisionData"`

	// IMDS is what the metadata service says otherwise: members of this description.
	IMDS json.RawMessage `json:"imds"`

	MAC          string   `json:"mac"`
	Address      string   `json:"address"` // with prefix length
	Gateway      string   `json:"gateway"`
	DNS          []string `json:"dns"`
	Domain       string   `json:"domain"`
	MTU          int      `json:"mtu"`          // 0: option 26 is not sent
	LeaseSeconds uint32   `json:"leaseSeconds"` // 0: for ever
	// RouteOption is the option that carries routes: 121, 249, or 3 for none but
	// the router.
	RouteOption int    `json:"routeOption"`
	NoOption245 bool   `json:"noOption245"`
	IPv6        string `json:"ipv6"` // an address; "" for none
	Hardware
	Impair   *Impair `json:"impair,omitempty"` // of the VM's own interface
	NICs     []NIC   `json:"nics"`             // further ones
	NICOrder []int   `json:"nicOrder"`         // in which the kernel finds them; 0 is the VM's own

	Incarnation int    `json:"incarnation"`
	ContainerID string `json:"containerId"`
	InstanceID  string `json:"instanceId"`
}

// LoadVMs reads a description: {"vms":[…]}, or one VM alone. Unknown members
// are errors.
func LoadVMs(file string) ([]*VM, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list struct {
		VMs []*VM `json:"vms"`
	}
	strict := func(v any) error {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		return d.Decode(v)
	}
	err = strict(&list)
	if err != nil {
		var one VM
		if oneErr := strict(&one); oneErr != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list.VMs = []*VM{&one}
	}
	if len(list.VMs) == 0 {
		return nil, fmt.Errorf("%s: it describes no VM", file)
	}
	for i, vm := range list.VMs {
		if err := vm.Defaults(i); err != nil {
			return nil, fmt.Errorf("%s: vm %d: %w", file, i+1, err)
		}
	}
	return list.VMs, nil
}

// Defaults fills in what the description leaves out for the nth VM, and checks
// the rest.
func (vm *VM) Defaults(n int) error {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&vm.VMID, fmt.Sprintf("4f6d2c1a-90ab-4cde-8f01-%012x", 0x23456789abcd+n))
	if vm.Generation == 0 {
		vm.Generation = 2
	}
	set(&vm.Hostname, fmt.Sprintf("sim-vm-%d", n+1))
	set(&vm.User, "azureuser")
	if vm.DisablePasswordAuthentication == nil {
		disable := vm.Password == ""
		vm.DisablePasswordAuthentication = &disable
	}
	if vm.ProvisionGuestAgent == nil {
		yes := true
		vm.ProvisionGuestAgent = &yes
	}
	set(&vm.MAC, fmt.Sprintf("00:0d:3a:04:75:%02x", 0x98+n))
	set(&vm.Address, fmt.Sprintf("10.1.0.%d/24", 4+n))
	p, err := netip.ParsePrefix(vm.Address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	set(&vm.Gateway, p.Masked().Addr().Next().String())
	if _, err := netip.ParseAddr(vm.Gateway); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if _, err := net.ParseMAC(vm.MAC); err != nil {
		return fmt.Errorf("mac: %w", err)
	}
	if vm.DNS == nil {
		vm.DNS = []string{WireServerAddress}
	}
	set(&vm.Domain, "k3zq1xw2pnuebd4hsoyvtm5gla.gx.internal.cloudapp.net")
	if vm.RouteOption == 0 {
		vm.RouteOption = 121
	}
	for i := range vm.NICs {
		if err := vm.NICs[i].defaults(i + 1); err != nil {
			return fmt.Errorf("nic %d: %w", i+1, err)
		}
	}
	if vm.Incarnation == 0 {
		vm.Incarnation = 1
	}
	set(&vm.ContainerID, fmt.Sprintf("7c0d1e52-3a4b-4c5d-8e6f-%012x", 0x90a1b2c3d4e5+n))
	set(&vm.InstanceID, fmt.Sprintf("5e6f7081-92a3-4b4c-8d5e-%012x._%s", 0x6f708192a3b4+n, vm.Hostname))
	if _, err := vm.customData(); err != nil {
		return fmt.Errorf("customDataBase64: %w", err)
	}
	if _, err := vm.with(vm.IMDS); err != nil {
		return fmt.Errorf("imds: %w", err)
	}
	if _, err := vm.with(vm.Assigned); err != nil {
		return fmt.Errorf("assigned: %w", err)
	}
	_, err = vm.certificates()
	return err
}

// with returns the VM with some members changed.
func (vm *VM) with(members json.RawMessage) (*VM, error) {
	v := *vm
	v.SSHKeys, v.KeyPairs, v.DNS = slices.Clone(vm.SSHKeys), slices.Clone(vm.KeyPairs), slices.Clone(vm.DNS)
	if len(members) == 0 {
		return &v, nil
	}
	d := json.NewDecoder(bytes.NewReader(members))
	d.DisallowUnknownFields()
	return &v, d.Decode(&v)
}

// customData returns the bytes of the VM's custom data.
func (vm *VM) customData() ([]byte, error) {
	if vm.CustomDataBase64 != "" {
		return base64.StdEncoding.DecodeString(vm.CustomDataBase64)
	}
	return []byte(vm.CustomData), nil
}

func (vm *VM) address() netip.Prefix {
	p, _ := netip.ParsePrefix(vm.Address)
	return p
}

// OVF returns the VM's ovf-env.xml with all elements and CRLF line ends, as
// Azure writes it.
func (vm *VM) OVF() []byte {
	esc := func(s string) string {
		return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#13;").Replace(s)
	}
	var b strings.Builder
	line := func(depth int, format string, args ...any) {
		b.WriteString(strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
		b.WriteString("\r\n")
	}
	element := func(depth int, prefix, name, value string) {
		if value == "" {
			line(depth, `<%s%s xsi:nil="true" />`, prefix, name)
			return
		}
		line(depth, "<%s%s>%s</%s%s>", prefix, name, esc(value), prefix, name)
	}
	line(0, `<?xml version="1.0" encoding="utf-8"?>`)
	line(0, `<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">`)
	line(1, `<wa:ProvisioningSection>`)
	line(2, `<wa:Version>1.0</wa:Version>`)
	line(2, `<LinuxProvisioningConfigurationSet xmlns="http://schemas.microsoft.com/windowsazure" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">`)
	line(3, `<ConfigurationSetType>LinuxProvisioningConfiguration</ConfigurationSetType>`)
	element(3, "", "HostName", vm.Hostname)
	element(3, "", "UserName", vm.User)
	if vm.Password != "" {
		element(3, "", "UserPassword", vm.Password)
	}
	element(3, "", "DisableSshPasswordAuthentication", fmt.Sprint(*vm.DisablePasswordAuthentication))
	if len(vm.SSHKeys)+len(vm.KeyPairs) > 0 {
		line(3, "<SSH>")
		list := func(container, name string, keys []SSHKey) {
			if len(keys) == 0 {
				return
			}
			line(4, "<%s>", container)
			for _, k := range keys {
				line(5, "<%s>", name)
				if k.Fingerprint != "" {
					element(6, "", "Fingerprint", k.Fingerprint)
				}
				path := k.Path
				if path == "" {
					path = "/home/" + vm.User + "/.ssh/authorized_keys"
				}
				element(6, "", "Path", path)
				if k.Value != "" {
					element(6, "", "Value", k.Value)
				}
				line(5, "</%s>", name)
			}
			line(4, "</%s>", container)
		}
		list("PublicKeys", "PublicKey", vm.SSHKeys)
		list("KeyPairs", "KeyPair", vm.KeyPairs)
		line(3, "</SSH>")
	}
	if data, _ := vm.customData(); len(data) > 0 {
		element(3, "", "CustomData", base64.StdEncoding.EncodeToString(data))
	}
	line(2, `</LinuxProvisioningConfigurationSet>`)
	line(1, `</wa:ProvisioningSection>`)
	line(1, `<wa:PlatformSettingsSection>`)
	line(2, `<wa:Version>1.0</wa:Version>`)
	line(2, `<wa:PlatformSettings>`)
	for _, e := range [][2]string{{"KmsServerHostname", "azkms.core.windows.net"}, {"ProvisionGuestAgent", fmt.Sprint(*vm.ProvisionGuestAgent)}, {"GuestAgentPackageName", ""},
		{"UseAVMA", "false"}, {"RetainWindowsPEPassInUnattend", "true"}, {"RetainOfflineServicingPassInUnattend", "true"}, {"PreprovisionedVm", fmt.Sprint(vm.PreprovisionedVM)},
		{"PreprovisionedVMType", vm.PreprovisionedVMType}, {"ProvisionGuestProxyAgent", "false"}, {"EnableTrustedImageIdentifier", "false"}} {
		element(3, "wa:", e[0], e[1])
	}
	line(2, `</wa:PlatformSettings>`)
	line(1, `</wa:PlatformSettingsSection>`)
	line(0, `</Environment>`)
	return []byte(b.String())
}
