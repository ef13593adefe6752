package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
)

// commitApplied writes, as one edit, what other software of the image looks
// for, and last the fact that this instance is applied.
func (b *boot) commitApplied() error {
	for _, dir := range []string{stateDir, waagentDir} {
		if err := b.guest.mkdir(dir, 0o700, 0, 0); err != nil {
			return err
		}
	}
	e := b.guest.edit()
	var failed error
	put := func(name string, data []byte) {
		if err := e.put(name, data, rootFile(0o600)); err != nil && failed == nil {
			failed = err
		}
	}
	id := b.instanceID()
	if b.medium != nil {
		scrubbed, err := scrubOVF(b.medium.OVF)
		if err != nil {
			return failure("scrub", "ovf-env.xml", err)
		}
		put(waagentDir+"/ovf-env.xml", scrubbed)
		put(stateDir+"/ovf-env.xml", scrubbed)
		put(waagentDir+"/published_hostname", []byte(b.spec.HostName))
		if agent := b.spec.ProvisionGuestAgent; agent != nil && !*agent {
			put(waagentDir+"/disable_agent", nil)
		}
	}
	if id != "" {
		put(waagentDir+"/provisioned", []byte(strings.ToUpper(swapUUID(id))))
	}
	b.instance.ID, b.instance.Progress = id, applied
	if b.instance.Script == "" && b.wantsScript() {
		b.instance.Script = scriptPending
	}
	put(stateDir+"/instance", b.instance.encode())
	if failed != nil {
		return failed
	}
	return e.commit()
}

// scriptPending marks custom data that is to run and has not ended.
const scriptPending = "pending"

// wantsScript says whether the custom data of this first boot is to be run.
func (b *boot) wantsScript() bool {
	data := b.spec.CustomData
	return b.cfg.CustomData == "run" && (bytes.HasPrefix(data, []byte("#!")) || bytes.HasPrefix(data, []byte("\x7fELF")))
}

// stepScript runs the custom data, once for an instance. One that was cut off
// runs again.
func (b *boot) stepScript(ctx context.Context) (string, error) {
	before := b.instance.Progress == applying
	if before && !b.wantsScript() || !before && b.instance.Script != scriptPending {
		return "", nil
	}
	if !before {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CustomDataTime)
	defer cancel()
	if !before {
		// The script may take long, or the machine down with it.
		if err := b.saveStatus(b.status(b.run.timeline(plan(b.cfg)), exitOK)); err != nil {
			b.warn("state", "%v", err)
		}
	}
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
		return "", failure("run custom data", stateDir+"/custom-data", errors.New(status))
	}
	return "custom data: " + status, nil
}
