package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const noDVD = `{"service":"media","action":"missing"}`

// imdsVM is a VM of which the metadata service knows everything.
func imdsVM(t *testing.T) *guestBox {
	b := newBox(t)
	delete(b.vm, "password")
	delete(b.vm, "customData")
	b.vm["disablePasswordAuthentication"] = true
	b.vm["sshKeys"] = []any{map[string]any{"value": keyEd25519 + " ops@desk"}}
	return b
}

func TestProvisionFromIMDSAlone(t *testing.T) {
	b := imdsVM(t)
	b.vm["userData"] = "#!/bin/sh\necho user data >/var/tmp/ran\n"
	// All that a medium could hold is known: it is not waited for.
	o := b.run(noDVD, "/opt/azprov -media.wait 10m -customdata run; code=$?; getent hosts edge-fra-07."+testDomain+" >/var/tmp/dns; exit $code")
	if o.code != exitOK || o.reports() != "Ready" {
		t.Fatalf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
	for p, want := range map[string]string{"etc/hostname": "edge-fra-07\n", "etc/passwd": "opsadmin:x:1000", "home/opsadmin/.ssh/authorized_keys": keyEd25519 + " ops@desk\n",
		"etc/ssh/sshd_config.d/10-azprov.conf": "PasswordAuthentication no", "var/tmp/ran": "user data\n", "var/tmp/dns": "10.1.0.4", "var/lib/waagent/ovf-env.xml": "<UserName>opsadmin</UserName>",
		"var/lib/azprov/instance": "progress=acknowledged\nscript=exit 0\n"} {
		if !strings.Contains(b.file(p), want) {
			t.Errorf("%s is %q", p, b.file(p))
		}
	}
	for line := range strings.Lines(b.file("etc/shadow")) {
		if strings.HasPrefix(line, "opsadmin:") && strings.Contains(line, "$") {
			t.Errorf("a password was made up: %s", line)
		}
	}
	if r := b.report(); !strings.HasPrefix(r, "result=success") || strings.Contains(r, "warning") {
		t.Errorf("report %q", r)
	}
}

// What only the DVD holds is named, and waited for.
func TestIMDSAloneNamesWhatIsMissing(t *testing.T) {
	b := newBox(t)
	o := b.run(noDVD, "/opt/azprov -media.wait 3s")
	if r := b.report(); o.code != exitOK || o.reports() != "Ready" || !strings.Contains(r, "only the DVD holds it") || !strings.Contains(r, "created with custom data") {
		t.Errorf("exit %d, %q, report %q\n%s", o.code, o.reports(), r, o.output)
	}
	b = newBox(t)
	o = b.run(noDVD, "/opt/azprov -media.wait 500ms -customdata.required yes")
	if r := b.report(); o.code != exitFailed || o.reports() != "NotReady/ProvisioningFailed" || !strings.Contains(r, "reason=metadata: read custom data") {
		t.Errorf("required: exit %d, %q, report %q\n%s", o.code, o.reports(), r, o.output)
	}
	b = newBox(t)
	o = b.run(`{"service":"media","action":"late","seconds":2.5}`, "/opt/azprov -customdata.required yes")
	if o.code != exitOK || !strings.Contains(b.file("etc/shadow"), "opsadmin:$6$") || b.file("var/lib/azprov/custom-data") == "" {
		t.Errorf("late: exit %d\n%s", o.code, o.output)
	}
}

func TestNeitherDVDNorIMDS(t *testing.T) {
	for name, c := range map[string]struct{ fault, reason string }{
		"refused": {`{"service":"imds","action":"refuse","seconds":60}`, "connection refused"},
		"404":     {`{"service":"imds","action":"status","status":404}`, "http status 404"},
		"403":     {`{"service":"imds","action":"status","status":403}`, "guest proxy agent"},
		"hang":    {`{"service":"imds","action":"hang"}`, "ask for instance metadata"},
		"garbage": {`{"service":"imds","action":"garbage"}`, "parse instance metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			o := b.run(noDVD+","+c.fault, "/opt/azprov -media.wait 300ms -imds.deadline 2s -deadline 20s")
			if r := b.report(); o.code != exitFailed || o.reports() != "NotReady/ProvisioningFailed" || !strings.Contains(r, "reason=spec: learn what this VM was created with") ||
				!strings.Contains(r, "no provisioning medium") || !strings.Contains(r, c.reason) {
				t.Errorf("exit %d, %q, report %q\n%s", o.code, o.reports(), r, o.output)
			}
			if strings.Contains(b.file("etc/passwd"), "opsadmin") {
				t.Error("an account was made")
			}
		})
	}
}

// A metadata service that does not work costs a VM with a DVD nothing but imds.wait.
func TestIMDSFaultsWithDVD(t *testing.T) {
	for name, fault := range map[string]string{
		"refused":   `{"service":"imds","action":"refuse","seconds":60}`,
		"hang":      `{"service":"imds","action":"hang"}`,
		"drip":      `{"service":"imds","action":"drip","bytesPerSecond":20}`,
		"reset":     `{"service":"imds","action":"reset"}`,
		"429":       `{"service":"imds","action":"status","status":429,"retryAfter":"30"}`,
		"forbidden": `{"service":"imds","action":"status","status":401}`,
		"garbage":   `{"service":"imds","action":"garbage"}`,
		"truncated": `{"service":"imds","action":"truncate"}`,
		"oversize":  `{"service":"imds","action":"oversize"}`,
		"redirect":  `{"service":"imds","action":"redirect"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			o := b.run(fault, "/opt/azprov")
			if r := b.report(); o.code != exitOK || o.reports() != "Ready" || !strings.HasPrefix(r, "result=success") || !strings.Contains(r, "warning=imds: ") {
				t.Errorf("exit %d, %q, report %q\n%s", o.code, o.reports(), r, o.output)
			}
			if !strings.Contains(b.file("home/opsadmin/.ssh/authorized_keys"), "ops@desk") {
				t.Error("the DVD's keys are not there")
			}
		})
	}
}

func TestIMDSAddsToTheDVD(t *testing.T) {
	b := newBox(t)
	delete(b.vm, "customData")
	b.vm["userData"] = "hello"
	b.vm["imds"] = map[string]any{"hostname": "other", "sshKeys": []any{map[string]any{"value": keyEd25519 + " again"}, map[string]any{"value": keyEd25519[:len(keyEd25519)-1] + "9 imds only"}}}
	o := b.run("", "/opt/azprov")
	if keys := b.file("home/opsadmin/.ssh/authorized_keys"); o.code != exitOK || strings.Count(keys, "\n") != 3 || !strings.Contains(keys, "imds only") || strings.Contains(keys, "again") {
		t.Errorf("exit %d, keys %q\n%s", o.code, keys, o.output)
	}
	if b.file("var/lib/azprov/custom-data") != "hello" || b.file("etc/hostname") != "edge-fra-07\n" || !strings.Contains(b.report(), `host name: "edge-fra-07" counts, imds says "other"`) {
		t.Errorf("%q %q %q", b.file("var/lib/azprov/custom-data"), b.file("etc/hostname"), b.report())
	}
	// Not wanted: nothing is asked.
	b = newBox(t)
	o = b.run("", "/opt/azprov -imds no")
	for _, e := range o.events {
		if e.Service == "imds" {
			t.Errorf("asked for %s", e.Path)
		}
	}
	if o.code != exitOK {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}

// A VM from a specialized disk has neither DVD nor user.
func TestSpecializedDisk(t *testing.T) {
	b := newBox(t)
	if o := b.run("", "/opt/azprov"); o.code != exitOK {
		t.Fatal(o.output)
	}
	b.vm["vmId"] = "00000000-1111-2222-3333-444444444444"
	b.vm["imds"] = map[string]any{"hostname": "", "user": "", "sshKeys": []any{}}
	before := manifest(t, filepath.Join(b.dir, "root/etc"))
	o := b.run(noDVD, "/opt/azprov")
	if o.code != exitOK || o.reports() != "Ready" || manifest(t, filepath.Join(b.dir, "root/etc")) != before {
		t.Errorf("exit %d, %q\n%s", o.code, o.reports(), o.output)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "root/var/lib/azprov/pool")); err == nil {
		t.Error("it was taken for a pool VM")
	}
}
