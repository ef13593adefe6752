package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// boot is one run: the machine, what is known about the instance, and what the
// steps leave for each other. A field is written by one step and read by steps
// that need it.
type boot struct {
	*machine
	run        *running
	phase      occasion
	started    time.Time // wall clock
	instance   instance
	stateErr   error // why the instance could not be read
	readyAfter time.Duration

	medium    *medium
	mediumErr error              // why there is no medium
	parts     [sourceCount]*spec // what each source says, by its rank; of the source's step
	imds      *metadata          // nil when the metadata service has not answered
	spec      *spec              // all sources merged; of the spec step
	account   *account
	links     []*link // candidates for the primary interface
	link      *link   // that interface
	lease     *lease
	// What the primary interface leaves to the others.
	offers     *offers
	stopOffers context.CancelFunc
	others     []*lease
	leaseMu    sync.Mutex // of what publishing and further addresses change in the leases
	wire       *wireServer
	goal       *goalState
	transport  *transport // nil when no certificates are wanted

	keys        *hostKeys  // nil if there is nothing to do with host keys
	hostKeys    []hostKey  // of the step hostkeys; RSA may be missing
	allHostKeys []hostKey  // of the step rsakey
	kvp         sync.Mutex // held while a pool file is written

	poolKind string     // of a VM that waits in a pool, "" for others; of the spec step
	pool     *poolWatch // what it waits for, once Ready was reported for the pool
	document secret     // reprovision data, of a VM that has left a pool
	// specialized is set when there is nothing to apply in this run, only Ready to
	// be reported: a VM in a pool, or one made from a specialized disk, which has
	// no source and was provisioned before.
	specialized bool
}

// newBoot looks up what was done before and decides what this run is for.
func newBoot(m *machine) *boot {
	in, err := loadInstance(m.guest)
	b := &boot{machine: m, instance: in, stateErr: err, started: m.now(), spec: &spec{}}
	id := m.instanceID()
	switch {
	case in.Progress == acknowledged && in.of(id):
		b.phase = everyBoot
	case in.Progress == applied && in.of(id):
		b.phase = unacknowledged
	}
	if id == "" {
		m.log.note("state", "this machine has no SMBIOS product UUID: a clone can't be told from its original")
	}
	return b
}

func (b *boot) stepState(context.Context) (string, error) {
	if b.stateErr != nil {
		return "", b.stateErr
	}
	id := b.instanceID()
	before := b.instance
	switch {
	case b.document != nil:
		return "given to a customer: provisioning by the reprovision data", nil
	case before.Progress == applying && before.of(id):
		return "an earlier run was cut off: provisioning again", nil
	case before.Progress != untouched:
		return "new instance " + id + ", the disk was provisioned as " + before.ID, nil
	}
	return "new instance " + id, nil
}

func (b *boot) stepMark(context.Context) (string, error) {
	if b.inPool() {
		return "", nil // until all is applied a cut-off run starts from the pool again
	}
	// It need not be durable: without it the next run provisions as well.
	if err := b.guest.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return "", err
	}
	e := b.guest.edit()
	if err := e.put(stateDir+"/instance", instance{ID: b.instanceID(), Progress: applying}.encode(), rootFile(0o600)); err != nil {
		return "", err
	}
	return "", e.commitLater()
}

// previous says whether the disk was provisioned before, for another instance.
func (b *boot) previous() bool {
	return b.instance.Progress == applied || b.instance.Progress == acknowledged
}

func (b *boot) stepHostname(context.Context) (string, error) {
	if b.specialized {
		return "", nil
	}
	if b.spec.HostName == "" {
		b.warn("hostname", "no source names the host: its name stays as it is")
		return "", nil
	}
	return b.applyHostname(b.spec.HostName)
}

func (b *boot) stepUser(ctx context.Context) (string, error) {
	if b.specialized {
		return "", nil
	}
	a, text, err := b.applyUser(ctx, b.spec)
	b.account = a
	return text, err
}

func (b *boot) stepSSH(context.Context) (string, error) {
	if b.specialized {
		return "", nil
	}
	return b.applyKeys(b.account, b.spec.Keys)
}

func (b *boot) stepSSHD(context.Context) (string, error) {
	if b.specialized {
		return "", nil
	}
	before := b.lastReload()
	text, err := b.applySSHD(b.spec)
	if b.keys != nil && b.keys.made && b.lastReload() == before {
		b.reloadSSHD()
	}
	return text, err
}

func joinTexts(texts ...string) string {
	var parts []string
	for _, t := range texts {
		if t != "" {
			parts = append(parts, t)
		}
	}
	return strings.Join(parts, ", ")
}

func (b *boot) stepCustomData(context.Context) (string, error) {
	if b.specialized || b.spec.CustomData == nil {
		return "", nil
	}
	return b.storeCustomData(b.spec.CustomData, stateDir)
}

func (b *boot) stepResolv(context.Context) (string, error) {
	if b.lease == nil {
		return "", nil
	}
	return "", b.writeResolvConf(b.lease)
}

// knownHostName is the name that DHCP sends: the one on the medium, or the one
// that an earlier run left; empty while the medium has not been read.
func (b *boot) knownHostName() string {
	if b.phase == firstBoot {
		if b.run.ended("spec") {
			return b.spec.HostName
		}
		if b.run.ended("media") && b.parts[fromMedium] != nil {
			return b.parts[fromMedium].HostName
		}
		return ""
	}
	data, err := b.guest.read("/etc/hostname", 256)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (b *boot) stepPublish(ctx context.Context) (string, error) {
	if b.specialized || b.lease == nil || b.lease.Configured || b.lease.HostName != "" || b.spec.HostName == "" {
		return "", nil
	}
	if err := b.publishLater(ctx, b.spec.HostName); err != nil {
		return "", err
	}
	return b.spec.HostName + " by a new request on the lease", nil
}

// newWire returns a client of the wire server that this VM has.
func (b *boot) newWire() (*wireServer, error) {
	endpoint := b.cfg.WireServer
	if b.lease != nil {
		endpoint = b.lease.wireServer(b.cfg)
	}
	if endpoint == "" {
		endpoint = defaultWireServer
	}
	return newWireServer(endpoint, b.cfg.Health, func(text string) { b.log.note("wireserver", text) })
}

func (b *boot) stepGoalState(ctx context.Context) (string, error) {
	w, err := b.newWire()
	if err != nil {
		return "", err
	}
	b.wire = w
	if b.cfg.Health == "json" {
		return "", nil
	}
	gs, err := b.wire.goalState(ctx)
	if err != nil {
		return "", err
	}
	b.goal = gs
	return sprintf("incarnation %s, container %s", oneLine(gs.Incarnation, 20), oneLine(gs.ContainerID, 40)), nil
}

// stepReady makes the applied state durable and tells Azure, or tells it what
// failed. It runs however the other steps ended.
func (b *boot) stepReady(ctx context.Context) (string, error) {
	if bad := b.run.firstFailure(required); bad != nil {
		return b.reportFailure(ctx, bad)
	}
	if b.phase == firstBoot && b.poolKind == "" && !b.awaitsCertificates() {
		if err := b.commitApplied(); err != nil {
			return "", err
		}
	}
	if bad := b.run.firstFailure(contact); bad != nil {
		b.writeReport(b.failureReport(bad))
		return "", failureHint("report ready", "", errNeed, "everything is applied; the next run reports Ready")
	}
	if b.wire == nil {
		return "", failure("report ready", "", errors.New("the goalstate step was left out"))
	}
	if b.poolKind != "" {
		return b.poolReady(ctx)
	}
	if err := b.wire.report(ctx, b.goal, health{State: "Ready"}); err != nil {
		b.writeReport(b.failureReport(&result{Name: "ready", Err: err}))
		return "", err
	}
	b.readyAfter = time.Since(b.run.began)
	b.instance.Progress = acknowledged
	if err := b.instance.save(b.guest); err != nil {
		b.warn("ready", "acknowledged, but not recorded, so that Ready will be sent again: %v", err)
	}
	b.writeReport(b.newReport("success"))
	if b.cfg.MediaEject && b.medium != nil && b.document == nil {
		if err := b.ejectMedium(b.medium.Device); err != nil {
			b.warn("ready", "%v", err)
		}
	}
	return "Ready acknowledged", nil
}

// reportFailure tells Azure which required step failed first. KVP comes before
// the wire server, since the host collects it when the health report arrives.
func (b *boot) reportFailure(ctx context.Context, bad *result) (string, error) {
	rep := b.failureReport(bad)
	b.writeReport(rep)
	if b.inPool() {
		// Else the next boot would ask for reprovision data that never come.
		if err := b.saveProgress(applying); err != nil {
			b.warn("ready", "%v", err)
		}
	}
	if b.wire == nil {
		return "", failure("report failure", "", errors.New("no wire server was reached"))
	}
	err := b.wire.report(ctx, b.goal, health{State: "NotReady", SubStatus: "ProvisioningFailed", Description: rep.text(healthTextLimit, escapedLen)})
	if err != nil {
		return "", err
	}
	return "NotReady acknowledged: step " + bad.Name + " failed", nil
}

func (b *boot) newReport(res string) *report {
	r := &report{Result: res, Agent: "azprov/" + version, VMID: b.vmID(), Time: b.now(), Pool: b.poolKind, Warnings: b.currentWarnings()}
	if b.instance.Script != "" {
		r.CustomData = b.instance.Script
	}
	return r
}

func (b *boot) failureReport(bad *result) *report {
	r := b.newReport("error")
	r.Step = bad.Name
	r.Reason = bad.Name + ": " + bad.Err.Error()
	var se *stepError
	if errors.As(bad.Err, &se) {
		r.Path = se.Path
	}
	r.Errno = errnoOf(bad.Err)
	return r
}

// writeReport puts a report where the host looks for it without a network.
func (b *boot) writeReport(r *report) {
	b.writeKVP("ready", kvpReportKey, r.text(kvpMaxValue, func(s string) int { return len(s) }))
}

// writeKVP sets a key for the host, if that is wanted. A failure is a warning of
// the step.
func (b *boot) writeKVP(step, key, value string) {
	if b.cfg.KVP == "" || b.cfg.KVP == "none" {
		return
	}
	b.kvp.Lock()
	defer b.kvp.Unlock()
	if err := writeKVP(b.guest, b.cfg.KVP, key, value, bootTime(b.procfs, b.now())); err != nil {
		b.warn(step, "%v", err)
	}
}
