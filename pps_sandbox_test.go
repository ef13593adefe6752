package main

import (
	"strings"
	"testing"

	"azprov/sim"
)

// poolVM is a VM of a pool: its own account must never be applied, the
// customer's is in "assigned".
func poolVM(t *testing.T, kind string) *guestBox {
	b := newBox(t)
	b.vm["preprovisionedVm"], b.vm["preprovisionedVmType"] = true, kind
	b.vm["hostname"], b.vm["user"], b.vm["password"] = "pool-1", "pooluser", "P00l!secret"
	b.vm["assignAfter"] = 0.4
	b.vm["assigned"] = map[string]any{"hostname": "edge-fra-07", "user": "opsadmin", "password": "Tr1cky <pass> & more", "address": "10.2.0.9/24", "gateway": "10.2.0.1",
		"sshKeys": []any{map[string]any{"value": keyEd25519 + " ops@desk"}}, "customData": "#!/bin/sh\necho ran >>/var/tmp/ran\n"}
	return b
}

// isTheCustomers checks what a VM that has left its pool must look like.
func isTheCustomers(t *testing.T, b *guestBox, o outcomeOf) {
	t.Helper()
	if o.code != exitOK || !strings.Contains(b.file("var/lib/azprov/instance"), "progress=acknowledged") || b.file("etc/hostname") != "edge-fra-07\n" ||
		!strings.Contains(b.file("etc/passwd"), "opsadmin:x:1000:") || !strings.Contains(b.file("etc/shadow"), "opsadmin:$6$") ||
		!strings.Contains(b.file("home/opsadmin/.ssh/authorized_keys"), "ops@desk") {
		t.Errorf("exit %d, reports %q, state %q\n%s", o.code, o.reports(), b.file("var/lib/azprov/instance"), o.output)
	}
	for _, p := range []string{"etc/passwd", "etc/shadow", "etc/hosts", "etc/sudoers.d/azprov", "var/lib/waagent/ovf-env.xml"} {
		if strings.Contains(b.file(p), "pool-1") || strings.Contains(b.file(p), "pooluser") {
			t.Errorf("%s is the pool's: %s", p, b.file(p))
		}
	}
	if r := b.report(); !strings.HasPrefix(r, "result=success") || !strings.Contains(r, "pps_type=None") {
		t.Errorf("report %q", r)
	}
	if strings.Contains(o.output, "P00l!secret") || strings.Contains(o.output, "Tr1cky") {
		t.Error("a password is in the output")
	}
}

// timeline is the order of what the platform saw.
func timeline(events []sim.Event) string {
	var list []string
	last := ""
	for _, e := range events {
		word := ""
		switch {
		case e.Service == "pool":
			word = "assign"
		case e.State == "Ready" && e.Status/100 == 2:
			word = "Ready"
		case e.Service == "dhcp" && e.Type == "REQUEST":
			word = "lease"
		case strings.Contains(e.Path, "reprovisiondata"):
			word = "data" + map[bool]string{true: "", false: "?"}[e.Status == 200]
		}
		if word != "" && word != last {
			list = append(list, word)
			last = word
		}
	}
	return strings.Join(list, " ")
}

func TestPoolFlows(t *testing.T) {
	for _, kind := range []string{"Running", "", "Savable"} {
		t.Run("kind "+kind, func(t *testing.T) {
			t.Parallel()
			b := poolVM(t, kind)
			o := b.run("", "/opt/azprov -customdata run; code=$?; getent hosts edge-fra-07."+testDomain+"; ip -o addr; ip route; exit $code")
			isTheCustomers(t, b, o)
			if got := timeline(o.events); !strings.HasPrefix(got, "lease Ready assign lease data? data lease Ready") {
				t.Errorf("the platform saw %s", got)
			}
			if o.reports() != "Ready Ready" || b.file("var/tmp/ran") != "ran\n" || strings.Contains(o.output, "inet 10.1.0.4") || !strings.Contains(o.output, "default via 10.2.0.1") ||
				!strings.Contains(o.output, "inet 10.2.0.9/") {
				t.Errorf("reports %q, ran %q\n%s", o.reports(), b.file("var/tmp/ran"), o.output)
			}
			if o = b.run("", "/opt/azprov"); o.code != exitOK || o.reports() != "" {
				t.Errorf("next boot: exit %d, %q\n%s", o.code, o.reports(), o.output)
			}
		})
	}
}

// By the metadata service alone, without a DVD that could be read.
func TestPoolKnownByIMDS(t *testing.T) {
	b := poolVM(t, "Running")
	o := b.run(noDVD, "/opt/azprov -media.wait 10m")
	isTheCustomers(t, b, o)
}

// The host shuts the VM down and puts its disk into another.
func TestPoolOSDisk(t *testing.T) {
	b := poolVM(t, "PreprovisionedOSDisk")
	o := b.run("", "/opt/azprov")
	if o.reports() != "Ready" || o.code == exitOK || strings.Contains(b.file("etc/passwd"), "pooluser") || strings.Contains(b.file("var/lib/azprov/instance"), "pool") {
		t.Fatalf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
	for k, v := range b.vm["assigned"].(map[string]any) {
		b.vm[k] = v
	}
	delete(b.vm, "assigned")
	b.vm["vmId"], b.vm["preprovisionedVm"], b.vm["preprovisionedVmType"] = "00000000-1111-2222-3333-444444444444", false, ""
	o = b.run("", "/opt/azprov")
	isTheCustomers(t, b, o)
	if o.reports() != "Ready" {
		t.Errorf("reports %q", o.reports())
	}
}

// killWhen kills azprov as soon as a shell condition holds.
func killWhen(condition string) string {
	return "/opt/azprov & pid=$!; for i in $(seq 3000); do if " + condition + "; then break; fi; sleep 0.01; done; kill -9 $pid; wait $pid; cat /var/lib/azprov/instance"
}

// A VM that is cut off at any point of its way through the pool ends provisioned.
func TestPoolKilledAtEachMarker(t *testing.T) {
	state := func(p string) string { return "grep -q progress=" + p + "$ /var/lib/azprov/instance 2>/dev/null" }
	for name, c := range map[string]struct {
		kind, faults, kill string
		left               string // the marker after the kill
		restarted          bool   // the platform has the first Ready
		reports            string // of the second run
	}{
		"before Ready":             {"Running", `{"service":"wire","match":"goalstate","action":"hang"}`, state("applying") + " && sleep 0.3", "applying", false, "Ready Ready"},
		"Ready not delivered":      {"Savable", `{"service":"wire","match":"health","action":"hang"}`, state("pooling"), "pooling", false, "Ready Ready"},
		"Ready on its way":         {"Running", `{"service":"wire","match":"health","action":"hang"}`, state("pooling") + " && sleep 0.2", "pooling", false, "Ready Ready"},
		"waiting":                  {"Running", "", state("pooled"), "pooled", true, "Ready"},
		"waiting for another card": {"Savable", "", state("pooled"), "pooled", true, "Ready"},
		"polling":                  {"Savable", "", state("pooled") + " && ip -o addr | grep -q 10.2.0.9 && sleep 0.1", "pooled", true, "Ready"},
		"applying what came":       {"Running", `{"service":"wire","match":"goalstate","after":1,"action":"hang"}`, "grep -q opsadmin /etc/shadow", "pooled", true, "Ready"},
		"applied":                  {"Running", `{"service":"wire","match":"health","after":1,"action":"hang"}`, state("applied"), "applied", true, "Ready"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := poolVM(t, c.kind)
			first := b.run(c.faults, killWhen(c.kill))
			if !strings.Contains(first.output, "progress="+c.left+"\n") {
				t.Fatalf("killed elsewhere:\n%s", first.output)
			}
			if strings.Contains(b.file("etc/passwd"), "pooluser") {
				t.Error("the pool's account was made")
			}
			b.vm["restarted"] = c.restarted
			if c.left == "applied" { // the VM is the customer's
				for k, v := range b.vm["assigned"].(map[string]any) {
					b.vm[k] = v
				}
				b.vm["assigned"], b.vm["preprovisionedVm"], b.vm["preprovisionedVmType"] = nil, false, ""
			}
			o := b.run("", "/opt/azprov")
			isTheCustomers(t, b, o)
			if o.reports() != c.reports {
				t.Errorf("reports %q, want %q: %s\n%s", o.reports(), c.reports, timeline(o.events), o.output)
			}
		})
	}
}

// A marker that the metadata service denies is stale, as one of another VM is.
func TestPoolMarkerStale(t *testing.T) {
	for name, id := range map[string]string{"denied": "4f6d2c1a-90ab-4cde-8f01-23456789abcd", "of another": "11111111-90ab-4cde-8f01-23456789abcd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			o := b.run("", "mkdir -p /var/lib/azprov; printf 'id="+id+"\\nprogress=pooled\\nscript=\\n' >/var/lib/azprov/instance; /opt/azprov")
			if o.code != exitOK || o.reports() != "Ready" || b.file("etc/hostname") != "edge-fra-07\n" || !strings.Contains(b.file("var/lib/azprov/instance"), "progress=acknowledged") {
				t.Errorf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
			}
		})
	}
}

// What is wrong after the pool is reported, and the marker goes.
func TestPoolFailureAfterwards(t *testing.T) {
	b := poolVM(t, "Running")
	b.vm["assigned"].(map[string]any)["user"] = "root"
	o := b.run("", "/opt/azprov")
	if r := b.report(); o.code != exitFailed || o.reports() != "Ready NotReady/ProvisioningFailed" || !strings.Contains(r, "reason=user:") || !strings.Contains(b.file("var/lib/azprov/instance"), "progress=applying") {
		t.Errorf("exit %d, reports %q, report %q, state %q\n%s", o.code, o.reports(), r, b.file("var/lib/azprov/instance"), o.output)
	}
	b = poolVM(t, "Running")
	b.vm["assigned"].(map[string]any)["imds"] = map[string]any{"preprovisionedVmType": "Running"}
	o = b.run("", "/opt/azprov")
	if r := b.report(); o.code != exitFailed || !strings.Contains(r, "invalid IMDS metadata for key=extended.compute.ppsType: Running") || strings.Contains(b.file("etc/passwd"), "opsadmin") {
		t.Errorf("exit %d, report %q\n%s", o.code, r, o.output)
	}
}

// Reprovision data are asked for through all that can go wrong.
func TestPoolReprovisionFaults(t *testing.T) {
	const match = `"service":"imds","match":"reprovisiondata"`
	for name, fault := range map[string]string{
		"statuses": `{` + match + `,"count":1,"action":"status","status":410},{` + match + `,"after":1,"count":1,"action":"status","status":500},{` + match + `,"after":1,"count":1,"action":"status","status":429,"retryAfter":"1"}`,
		"reset":    `{` + match + `,"count":2,"action":"reset"}`,
		"empty":    `{` + match + `,"count":1,"action":"status","status":200}`,
		"cut off":  `{` + match + `,"count":1,"action":"truncate"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := poolVM(t, "Running")
			isTheCustomers(t, b, b.run(fault, "/opt/azprov"))
		})
	}
}
