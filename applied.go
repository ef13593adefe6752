package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
)

// stepRecords writes what other software of the image looks for.
func (b *boot) stepRecords(context.Context) (string, error) {
	if b.specialized {
		return "", nil
	}
	scrubbed := b.spec.ovf()
	if b.medium != nil {
		var err error
		if scrubbed, err = scrubOVF(b.medium.OVF); err != nil {
			return "", failure("scrub", "ovf-env.xml", err)
		}
	}
	for _, dir := range []string{stateDir, waagentDir} {
		if err := b.guest.mkdir(dir, 0o700, 0, 0); err != nil {
			return "", err
		}
	}
	e := b.guest.edit()
	err := errors.Join(e.put(waagentDir+"/ovf-env.xml", scrubbed, rootFile(0o600)), e.put(stateDir+"/ovf-env.xml", scrubbed, rootFile(0o600)),
		e.put(waagentDir+"/published_hostname", []byte(b.spec.HostName), rootFile(0o600)))
	if agent := b.spec.ProvisionGuestAgent; err == nil && agent != nil && !*agent {
		err = e.put(waagentDir+"/disable_agent", nil, rootFile(0o600))
	}
	if err != nil {
		return "", err
	}
	return "", e.commitLater()
}

// commitApplied makes it durable that all is applied, for us and for the Linux
// agent, which then does not provision again.
func (b *boot) commitApplied() error {
	for _, dir := range []string{stateDir, waagentDir} {
		if err := b.guest.mkdir(dir, 0o700, 0, 0); err != nil {
			return err
		}
	}
	id := b.instanceID()
	next := instance{ID: id, Progress: applied, Script: b.instance.Script}
	if b.scriptDue() {
		next.Script = scriptPending
	}
	e := b.guest.edit()
	var err error
	if id != "" {
		err = e.put(waagentDir+"/provisioned", []byte(strings.ToUpper(swapUUID(id))), rootFile(0o600))
	}
	if err = errors.Join(err, e.put(stateDir+"/instance", next.encode(), rootFile(0o600))); err != nil {
		return err
	}
	if err := e.commitAfter(b.guest.settle); err != nil {
		return err
	}
	b.instance = next
	return nil
}

// scriptPending marks custom data that is to run and has not ended.
const scriptPending = "pending"

// wantsScript says whether the custom data of this first boot is to be run.
func (b *boot) wantsScript() bool {
	data := b.spec.CustomData
	return b.cfg.CustomData == "run" && (bytes.HasPrefix(data, []byte("#!")) || bytes.HasPrefix(data, []byte("\x7fELF")))
}

// scriptDue says whether a script is to run after Ready.
func (b *boot) scriptDue() bool {
	return b.phase == firstBoot && b.wantsScript() && b.cfg.CustomDataWhen == "after"
}

// stepScript runs the custom data, once for an instance. One that was cut off
// runs again.
func (b *boot) stepScript(ctx context.Context) (string, error) {
	before := b.phase == firstBoot && b.cfg.CustomDataWhen == "before"
	if before && !b.wantsScript() || !before && b.instance.Script != scriptPending {
		return "", nil
	}
	if !before {
		ctx = context.Background()
		// The script may take long, or the machine down with it.
		if err := b.saveStatus(b.status(b.run.timeline(plan(b.cfg)), exitOK)); err != nil {
			b.warn("state", "%v", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CustomDataTime)
	defer cancel()
	status, err := b.runCustomData(ctx, stateDir+"/custom-data")
	if err != nil {
		status = "not run: " + err.Error()
	}
	b.instance.Script = oneLine(status, 200)
	if !before {
		if saveErr := b.instance.save(b.guest); saveErr != nil {
			b.warn("script", "it ran, but that is not recorded, so that it will run again: %v", saveErr)
		}
		b.writeReport(b.newReport("success"))
	}
	if err != nil {
		return "", err
	}
	if status != "exit 0" {
		return "", failureHint("run custom data", stateDir+"/custom-data", errors.New(status), "its output is in "+scriptLog)
	}
	return "custom data: " + status, nil
}
