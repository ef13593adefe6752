package main

import (
	"strings"
	"testing"
)

func TestProvisionData(t *testing.T) {
	for name, c := range map[string]struct {
		form, faults string
		password     bool // it came
		warning      string
	}{
		"xml":             {"xml", noDVD, true, ""},
		"json":            {"json", noDVD, true, ""},
		"not there":       {"", noDVD, false, "only the DVD holds it"},
		"503, then there": {"json", noDVD + `,{"service":"wire","match":"provisiondata","count":2,"action":"status","status":503,"retryAfter":"1"}`, true, ""},
		"401":             {"json", noDVD + `,{"service":"wire","match":"provisiondata","action":"status","status":401}`, false, "guest proxy agent"},
		"garbage":         {"json", noDVD + `,{"service":"wire","match":"provisiondata","action":"garbage"}`, false, "warning=provisiondata: "},
		"hang, with DVD":  {"json", `{"service":"wire","match":"provisiondata","action":"hang"}`, true, "warning=provisiondata: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			b.vm["provisionData"] = c.form
			o := b.run(c.faults, "/opt/azprov -provisiondata yes -media.wait 1s")
			if r := b.report(); o.code != exitOK || o.reports() != "Ready" || !strings.Contains(r, c.warning) || c.warning == "" && strings.Contains(r, "warning=") {
				t.Errorf("exit %d, %q, report %q\n%s", o.code, o.reports(), r, o.output)
			}
			if strings.Contains(b.file("etc/shadow"), "opsadmin:$6$") != c.password || strings.HasPrefix(b.file("var/lib/azprov/custom-data"), "#!/bin/sh") != c.password {
				t.Errorf("shadow and custom data are not as they should be:\n%s", o.output)
			}
			secretsAreNowhere(t, b)
		})
	}
	b := newBox(t)
	b.vm["provisionData"] = "json"
	for _, e := range b.run("", "/opt/azprov").events {
		if strings.Contains(e.Path, "provisiondata") {
			t.Error("it was asked for without being wanted")
		}
	}
}
