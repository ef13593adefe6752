package main

import (
	"context"
	"errors"
	"time"
)

// source is a place that says what this VM was created with.
type source interface {
	name() string
	// read returns what the source says and a line about it for the console. Nil
	// without an error: there is no such source here.
	read(ctx context.Context, b *boot) (*spec, string, error)
}

// The ranks of the sources. Where two differ the lower one counts: the medium
// comes first because it is there before the network is.
const (
	fromMedium = iota
	fromWireServer
	fromIMDS
	sourceCount
)

// sources lists the sources by rank, each with its step.
func sources() [sourceCount]struct {
	source
	step string
} {
	return [sourceCount]struct {
		source
		step string
	}{{mediumSource{}, "media"}, {provisionDataSource{}, "provisiondata"}, {imdsSource{}, "imds"}}
}

// readSource is the step of a source.
func readSource(rank int) func(*boot, context.Context) (string, error) {
	return func(b *boot, ctx context.Context) (string, error) {
		src := sources()[rank]
		s, text, err := src.read(ctx, b)
		if s != nil {
			s.Source = src.name()
			for _, note := range s.Notes {
				b.log.note(src.step, note)
			}
			b.parts[rank] = s
		}
		return text, err
	}
}

// merged is what the sources that have answered by now say together.
func (b *boot) merged() *spec {
	var list []*spec
	for rank, src := range sources() {
		if b.run.ended(src.step) && b.parts[rank] != nil {
			list = append(list, b.parts[rank])
		}
	}
	return mergeSpecs(list)
}

// mergeSpecs makes one spec of several, field by field: of each the first source
// that knows it counts, keys are collected. Differences are in its Notes. Its
// secrets are those of the sources.
func mergeSpecs(list []*spec) *spec {
	m := &spec{}
	text := func(what string, into *string, value string, s *spec) {
		switch {
		case *into == "":
			*into = value
		case value != "" && value != *into:
			m.Notes = append(m.Notes, sprintf("%s: %q counts, %s says %q", what, oneLine(*into, 64), s.Source, oneLine(value, 64)))
		}
	}
	for _, s := range list {
		text("host name", &m.HostName, s.HostName, s)
		text("user name", &m.UserName, s.UserName, s)
		if m.Password == nil {
			m.Password = s.Password
		}
		switch {
		case m.DisablePasswordAuth == nil:
			m.DisablePasswordAuth = s.DisablePasswordAuth
		case s.DisablePasswordAuth != nil && *s.DisablePasswordAuth != *m.DisablePasswordAuth:
			m.Notes = append(m.Notes, sprintf("password logins disabled: %v counts, %s says %v", *m.DisablePasswordAuth, s.Source, *s.DisablePasswordAuth))
		}
		m.Keys = mergeKeys(m.Keys, s.Keys)
		if m.KeyPairs == nil {
			m.KeyPairs = s.KeyPairs
		}
		if m.CustomData == nil {
			m.CustomData = s.CustomData
		}
		if m.ProvisionGuestAgent == nil {
			m.ProvisionGuestAgent = s.ProvisionGuestAgent
		}
		m.ProvisionProxyAgent = m.ProvisionProxyAgent || s.ProvisionProxyAgent
		if poolRank(s.Preprovisioned) > poolRank(m.Preprovisioned) {
			m.Preprovisioned = s.Preprovisioned
		}
	}
	return m
}

// mergeKeys appends the keys that are not there yet. Keys that are known only by
// fingerprint are dropped when the second list holds them by value: both
// list the same keys, so that it does when it has one more for each of them.
func mergeKeys(first, second []sshKey) []sshKey {
	known := map[string]bool{}
	open := 0
	for _, k := range first {
		if k.Value == "" {
			open++
		}
		known[keyID(k)] = true
	}
	var added []sshKey
	for _, k := range second {
		if id := keyID(k); !known[id] {
			known[id] = true
			added = append(added, k)
		}
	}
	var list []sshKey
	for _, k := range first {
		if k.Value != "" || len(added) < open {
			list = append(list, k)
		}
	}
	return append(list, added...)
}

// keyID is what makes two keys the same: type and key, without options and comment.
func keyID(k sshKey) string {
	if k.Value == "" {
		return k.Fingerprint
	}
	if key, err := parsePublicKey(k.Value); err == nil {
		return key.Type + " " + key.Base64
	}
	return k.Value
}

// mediumSource is the provisioning medium as a source of the spec.
type mediumSource struct{}

func (mediumSource) name() string { return "dvd" }

// read looks for the medium for up to media.wait. When there is none the
// metadata service may stand in, unless the configuration names the one to read.
func (mediumSource) read(ctx context.Context, b *boot) (*spec, string, error) {
	if b.document != nil {
		return b.takeMedium(&medium{Device: "reprovisiondata", FileSystem: "imds", OVF: b.document})
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.MediaWait+time.Second)
	defer cancel()
	med, err := b.findMedium(ctx, b.mediumNotNeeded)
	if err != nil {
		if !errors.Is(err, errNoMedium) || b.cfg.Media != "" || !b.cfg.IMDS && !b.cfg.ProvisionData && !b.previous() {
			return nil, "", err
		}
		b.mediumErr = err
		return nil, "no medium", nil
	}
	return b.takeMedium(med)
}

func (b *boot) takeMedium(med *medium) (*spec, string, error) {
	s, err := parseOVF(med.OVF)
	if err != nil {
		return nil, "", failure("parse ovf-env.xml", med.Device, err)
	}
	if s.CustomData == nil && len(med.CustomBin) > 0 {
		s.CustomData = med.CustomBin
	}
	b.medium = med
	return s, sprintf("%s, %s, %s", med.Device, med.FileSystem, oneLine(med.Label, 40)), nil
}

// mediumNotNeeded says whether the metadata service has given all that a medium
// could, so that it is not worth waiting for.
func (b *boot) mediumNotNeeded() bool {
	if !b.run.ended("imds") || b.imds == nil {
		return false
	}
	s := &b.imds.Spec
	if s.UserName == "" {
		return b.previous()
	}
	return s.Preprovisioned != "" || !b.imds.HasCustomData && s.HostName != "" && len(s.Keys) > 0 && s.DisablePasswordAuth != nil && *s.DisablePasswordAuth
}

// stepSpec settles what is applied. With a medium that is at once; what the
// metadata service adds comes later. Without one, the metadata service is asked
// by then.
func (b *boot) stepSpec(context.Context) (string, error) {
	s := b.merged()
	if b.medium == nil {
		for _, note := range s.Notes {
			b.warn("spec", "%s", note)
		}
		if s.UserName == "" && s.Preprovisioned == "" {
			if b.previous() {
				b.specialized = true
				return "no source, and the disk is provisioned: a VM from a specialized disk, nothing to apply", nil
			}
			return "", b.noSource()
		}
		if allow, known := s.passwordAuth(); known && allow && s.Preprovisioned == "" {
			if s.Password == nil {
				b.warn("spec", "a password may have been given for %s: only the DVD holds it, the account gets none", oneLine(s.UserName, 32))
			}
		}
	}
	if s.ProvisionProxyAgent && !b.guest.isFile("/usr/sbin/azure-proxy-agent") {
		b.warn("spec", "the VM was created with the guest proxy agent, and /usr/sbin/azure-proxy-agent is not in the image")
	}
	if b.document != nil {
		if b.imds != nil && b.imds.Spec.Preprovisioned != "" {
			return "", failure("use", "metadata", errors.New("invalid IMDS metadata for key=extended.compute.ppsType: "+b.imds.PPSType+", although the VM has left its pool"))
		}
	} else if s.Preprovisioned != "" {
		b.poolKind, b.specialized = s.Preprovisioned, true
		return "pre-provisioned VM, " + s.Preprovisioned + ": nothing of this document is applied", nil
	}
	b.spec = s
	if b.medium == nil {
		return "without a medium: " + oneLine(s.UserName+"@"+s.HostName, 100), nil
	}
	return "", nil
}

// noSource is the failure when nobody has said what to provision.
func (b *boot) noSource() error {
	imds := errors.New("the metadata service names no user")
	if b.imds == nil {
		imds = errors.New("imds is off or was left out")
		if res := b.run.result("imds"); res != nil && res.Err != nil {
			imds = res.Err
		}
	}
	medium := b.mediumErr
	if medium == nil {
		medium = errNoMedium
	}
	return failure("learn what this VM was created with", "", errorf("%w; and no metadata: %w", medium, imds))
}

// stepMetadata applies what the metadata service adds to a medium that was read
// before the network was there.
func (b *boot) stepMetadata(context.Context) (string, error) {
	if b.imds == nil || b.specialized {
		return "", nil
	}
	if kind := b.imds.Spec.Preprovisioned; kind != "" && b.document == nil {
		return "", failure("use", "metadata", errors.New("they say that this VM waits in a pool ("+kind+"), the DVD does not"))
	}
	text, err := b.addMetadata()
	if err != nil {
		b.warn("metadata", "%v", err)
	}
	more, err := b.missingCustomData()
	return joinTexts(text, more), err
}

// addMetadata applies the keys that a medium lacks, and how to log in if it does
// not say that.
func (b *boot) addMetadata() (string, error) {
	if b.medium == nil {
		return "", nil
	}
	all := b.merged()
	for _, note := range all.Notes {
		b.warn("metadata", "%s", note)
	}
	var extra []sshKey
	for _, k := range all.Keys {
		if k.Source == sourceIMDS {
			extra = append(extra, k)
		}
	}
	var keys, logins string
	var err error
	if len(extra) > 0 {
		keys, err = b.applyKeys(b.account, extra)
	}
	if b.spec.DisablePasswordAuth == nil && all.DisablePasswordAuth != nil && err == nil {
		logins, err = b.applySSHD(all)
	}
	return joinTexts(keys, logins), err
}

// missingCustomData says so when custom data were promised and are nowhere, and
// puts user data in their place when there never were any.
func (b *boot) missingCustomData() (string, error) {
	switch {
	case b.spec.CustomData != nil:
	case b.imds.HasCustomData:
		if b.instance.Progress == applying && b.instance.of(b.instanceID()) && b.guest.isFile(stateDir+"/custom-data") {
			return "", nil // of an earlier run
		}
		err := failure("read custom data", "", errors.New("the VM was created with custom data, and no medium holds them"))
		if b.cfg.CustomDataMust {
			return "", err
		}
		b.warn("metadata", "%v", err)
	case b.cfg.UserData && b.imds.UserData != nil:
		b.spec.CustomData = b.imds.UserData
		text, err := b.storeCustomData(b.spec.CustomData, stateDir)
		if err != nil {
			b.warn("metadata", "%v", err)
			return "", nil
		}
		return "user data as custom data, " + text, nil
	}
	return "", nil
}
