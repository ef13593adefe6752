package main

import (
	"errors"
	"strconv"
	"strings"
)

// Limits of a metadata document.
const (
	maxIMDSKeys       = 256
	maxIMDSInterfaces = 64
	maxIMDSAddresses  = 256
)

// metadata is what the instance metadata service says of this VM.
type metadata struct {
	Spec          spec   // host name, user, keys, password switch, pool type
	UserData      secret // decoded; nil if there are none
	HasCustomData bool
	// HasAdminPassword is of the draft that provisiondata.go speaks.
	HasAdminPassword bool
	PPSType          string // as it stands: "" when the document lacks it, "None", ...
	VMID             string
	Interfaces       []imdsInterface
}

// imdsInterface is a network interface in the platform's order.
type imdsInterface struct {
	MAC  mac
	IPv4 []ipPrefix // the first is that of DHCP
	IPv6 []ipAddr   // not empty: DHCPv6 has an address for it
}

// parseIMDS reads an instance document. Every scalar may be a string, a number
// or a boolean; absent and empty are the same; unknown members are ignored.
func parseIMDS(doc []byte) (*metadata, error) {
	v, err := decodeJSON(doc)
	if err != nil {
		return nil, err
	}
	root, is := v.(object)
	if !is {
		return nil, errors.New("the metadata are no object")
	}
	md := &metadata{}
	compute := root.object("compute")
	profile := compute.object("osProfile")
	s := &md.Spec
	s.HostName = strings.TrimSpace(profile.text("computerName"))
	s.UserName = strings.TrimSpace(profile.text("adminUsername"))
	if v, err := parseBool(profile.text("disablePasswordAuthentication")); err == nil {
		s.DisablePasswordAuth = &v
	}
	md.VMID = compute.text("vmId")
	for _, v := range compute.list("publicKeys", maxIMDSKeys) {
		k, _ := v.(object)
		if key := imdsKey(k.text("keyData")); key != "" {
			s.Keys = append(s.Keys, sshKey{Value: key, Path: strings.TrimSpace(k.text("path")), Source: sourceIMDS})
		}
	}
	if md.UserData, err = looseBase64([]byte(compute.text("userData"))); err != nil {
		s.Notes = append(s.Notes, sprintf("the user data are left out: %v", err))
	}
	extended := root.object("extended").object("compute")
	md.HasCustomData, _ = parseBool(extended.text("hasCustomData"))
	md.HasAdminPassword, _ = parseBool(extended.text("hasAdminPassword"))
	md.PPSType = extended.text("ppsType")
	s.Preprovisioned = poolType(md.PPSType, false)
	for _, v := range root.object("network").list("interface", maxIMDSInterfaces) {
		if nic, ok := parseIMDSInterface(v); ok {
			md.Interfaces = append(md.Interfaces, nic)
		}
	}
	return md, nil
}

// imdsKey is a key as one line. Windows tools leave line ends inside; of a
// certificate it is the key that was certified.
func imdsKey(text string) string {
	if der := pemContent([]byte(text), "CERTIFICATE"); der != nil {
		if c, err := parseCertificate(der); err == nil && c.Public != nil {
			return publicLine(c.Public, "")
		}
	}
	text = strings.TrimSpace(text)
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r", ""), "\n", "")
}

func parseIMDSInterface(v any) (nic imdsInterface, ok bool) {
	o, _ := v.(object)
	if nic.MAC = parseMAC(o.text("macAddress")); nic.MAC == (mac{}) {
		return nic, false
	}
	v4 := o.object("ipv4")
	bits := 24
	for _, v := range v4.list("subnet", 1) {
		subnet, _ := v.(object)
		if n, err := strconv.Atoi(subnet.text("prefix")); err == nil && n >= 0 && n <= 32 {
			bits = n
		}
	}
	for _, a := range addressesOf(v4) {
		if a.Is4() {
			nic.IPv4 = append(nic.IPv4, prefixFrom(a, bits))
		}
	}
	for _, a := range addressesOf(o.object("ipv6")) {
		if a.Is6() {
			nic.IPv6 = append(nic.IPv6, a)
		}
	}
	return nic, true
}

func addressesOf(o object) (list []ipAddr) {
	for _, v := range o.list("ipAddress", maxIMDSAddresses) {
		e, _ := v.(object)
		if a, err := parseAddr(e.text("privateIpAddress")); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// object returns a member that is an object, else nil, which is an empty one.
func (o object) object(key string) object {
	v, _ := o.get(key).(object)
	return v
}

// list returns at most max elements of a member that is an array.
func (o object) list(key string, max int) []any {
	v, _ := o.get(key).([]any)
	return v[:min(len(v), max)]
}

func (md *metadata) json() object {
	nics := []any{}
	for _, n := range md.Interfaces {
		var v4, v6 []string
		for _, p := range n.IPv4 {
			v4 = append(v4, p.String())
		}
		for _, a := range n.IPv6 {
			v6 = append(v6, a.String())
		}
		nics = append(nics, object{{"mac", n.MAC.String()}, {"ipv4", v4}, {"ipv6", v6}})
	}
	return append(object{{"vm_id", md.VMID}, {"pps_type", md.PPSType}, {"has_custom_data", md.HasCustomData}, {"user_data", md.UserData},
		{"user_data_bytes", len(md.UserData)}, {"interfaces", nics}}, md.Spec.json()...)
}
