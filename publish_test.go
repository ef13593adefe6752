package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// resolves is a shell command that says whether DNS knows a name of the VM.
func resolves(name string) string {
	return "getent ahostsv4 " + name + "." + testDomain + " | grep -q '^10.1.0.4 ' && echo " + name + " resolves"
}

// linkEvents are shell commands around others that show every event of eth0
// after it has come up, as another program sees it.
const (
	watchLink = "ip -o monitor link >/tmp/mon 2>&1 & mon=$!; n=0; until [ -s /tmp/mon ]; do ip link set lo alias n$n; n=$((n+1)); sleep 0.1; done; "
	shownLink = "; sleep 0.2; kill $mon; echo LINK; grep eth0 /tmp/mon | grep -v '^Deleted' | grep -A99999 LOWER_UP; grep '^Deleted.*eth0' /tmp/mon"
)

// neverDown judges the events that shownLink has printed.
func neverDown(output string) error {
	_, events, _ := strings.Cut(output, "LINK\n")
	events, _, _ = strings.Cut(events, "{")
	if !strings.Contains(events, "LOWER_UP") {
		return fmt.Errorf("the link never came up")
	}
	for line := range strings.Lines(events) {
		if strings.Contains(line, "eth0") && (!regexp.MustCompile(`[<,]UP[,>]`).MatchString(line) || !strings.Contains(line, "LOWER_UP") || strings.Contains(line, "Deleted")) {
			return fmt.Errorf("the link went down: %s", line)
		}
	}
	return nil
}

// The platform notes which name its DNS has for the VM when Ready comes.
func TestNameIsPublishedAtReady(t *testing.T) {
	for name, c := range map[string]struct {
		faults string
		late   bool // the name is learned after the lease
	}{
		"first packet": {},
		"late DVD":     {`{"service":"media","action":"late","seconds":2}`, true},
		"lost answers": {`{"service":"media","action":"late","seconds":2},{"service":"dhcp","match":"REQUEST","after":1,"count":2,"action":"drop"}`, true},
	} {
		b := newBox(t)
		o := b.run(c.faults, watchLink+"/opt/azprov; code=$?; "+resolves("edge-fra-07")+shownLink+"; exit $code")
		atReady := ""
		for _, e := range o.events {
			if e.State == "Ready" {
				atReady = e.Name
			}
		}
		if o.code != exitOK || atReady != "edge-fra-07."+testDomain || !strings.Contains(o.output, "edge-fra-07 resolves") {
			t.Errorf("%s: exit %d, the name in DNS at Ready is %q\n%s", name, o.code, atReady, o.output)
		}
		if err := neverDown(o.output); err != nil {
			t.Errorf("%s: %v\n%s", name, err, o.output)
		}
		if first := o.events[1]; (first.Name == "") != c.late {
			t.Errorf("%s: first packet %+v", name, first)
		}
	}
}

func TestRename(t *testing.T) {
	need(t, "tcpdump")
	b := newBox(t)
	o := b.run("", "/opt/azprov; "+watchLink+"tcpdump --immediate-mode -U -i eth0 -w /tmp/pcap port 67 2>/tmp/td & td=$!; until grep -q listening /tmp/td; do sleep 0.1; done; ip addr show eth0 | sed s/valid_lft.*// >/tmp/1; ip route >>/tmp/1; "+
		"/opt/azprov hostname edge-9.example.com; code=$?; "+resolves("edge-9")+"; "+resolves("edge-fra-07")+"; hostname; ip addr show eth0 | sed s/valid_lft.*// >/tmp/2; ip route >>/tmp/2; diff /tmp/1 /tmp/2; "+
		"ip link set dev eth0 alias seen; sleep 0.5; kill $td; tcpdump -vv -n -r /tmp/pcap 2>/dev/null"+shownLink+"; cat /run/azprov/lease.json; exit $code")
	for _, want := range []string{`(?m)^edge-9 resolves$`, `(?m)^edge-9$`, `FQDN \(81\), length \d+: \[SE\] "\^Fedge-9\^Gexample\^Ccom\^@"`, `Hostname \(12\), length 6: "edge-9"`, `Client-IP 10\.1\.0\.4`, `"host_name": "edge-9"`} {
		if !regexp.MustCompile(want).MatchString(o.output) {
			t.Errorf("no %s", want)
		}
	}
	if err := neverDown(o.output); o.code != exitOK || err != nil || strings.Contains(o.output, "edge-fra-07 resolves") || strings.Contains(o.output, "DHCP-Message (53), length 1: Discover") {
		t.Errorf("exit %d, %v", o.code, err)
	}
	if t.Failed() {
		t.Log(o.output)
	}
	for p, want := range map[string]string{"etc/hostname": "edge-9\n", "var/lib/waagent/published_hostname": "edge-9.example.com"} {
		if b.file(p) != want {
			t.Errorf("%s: %q", p, b.file(p))
		}
	}
	for arg, code := range map[string]int{"'bad name'": exitFailed, "": exitUsage, "a b": exitUsage} {
		if o := b.run("", "/opt/azprov hostname "+arg); o.code != code {
			t.Errorf("hostname %s: exit %d\n%s", arg, o.code, o.output)
		}
	}
	// Without a lease of azprov's: on what someone else has configured.
	o = b.run("", "ip addr add 10.1.0.4/24 dev eth0; ip link set eth0 up; /opt/azprov hostname edge-10; code=$?; ip route add default via 10.1.0.1; "+resolves("edge-10")+"; exit $code")
	if o.code != exitOK || !strings.Contains(o.output, "edge-10 resolves") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
	if o = b.run(`{"service":"dhcp","action":"nak"}`, "ip addr add 10.1.0.4/24 dev eth0; ip link set eth0 up; /opt/azprov hostname edge-11"); o.code != exitUnacknowledged || b.file("etc/hostname") != "edge-11\n" {
		t.Errorf("refused: exit %d\n%s", o.code, o.output)
	}
}
