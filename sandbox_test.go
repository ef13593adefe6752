package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"azprov/sim"
)

// binariesDir holds what binaries has built, for TestMain to remove.
var binariesDir string

// binaries builds azprov and azuresim once for all sandbox tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "azprov-test-")
	if err != nil {
		return "", err
	}
	binariesDir = dir
	if text, err := exec.Command("make", "-s", "programs", "DIR="+dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make programs: %w: %s", err, text)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binariesDir != "" {
		os.RemoveAll(binariesDir)
	}
	os.Exit(code)
}

// guestBox is a guest root with its platform's log, in which runs follow each other.
type guestBox struct {
	t    *testing.T
	dir  string
	bin  string
	vm   map[string]any
	seen int // events of earlier runs
}

func newBox(t *testing.T) *guestBox {
	t.Helper()
	needRoot(t)
	need(t, "ip")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// RSA keys are for the tests of host keys: they take time.
	writeTree(t, dir, map[string]string{"root/etc/azprov.conf": "hostkeys = ed25519\n"})
	return &guestBox{t: t, dir: dir, bin: bin, vm: map[string]any{
		"hostname": "edge-fra-07", "user": "opsadmin", "password": "Tr1cky <pass> & more", "disablePasswordAuthentication": false,
		"sshKeys":    []any{map[string]any{"value": keyEd25519 + " ops@desk"}, map[string]any{"value": keySK, "path": "$HOME/opsadmin/.ssh/authorized_keys"}},
		"customData": "#!/bin/sh\necho ran as $(id -u) >> /var/tmp/ran\nexit 3\n"}}
}

// outcomeOf is what a run leaves.
type outcomeOf struct {
	code   int
	output string
	events []sim.Event
	took   time.Duration
}

// ready returns the health reports that the platform took, as "State/SubStatus".
func (o outcomeOf) reports() string {
	var list []string
	for _, e := range o.events {
		if e.State != "" && e.Status/100 == 2 {
			list = append(list, strings.TrimSuffix(e.State+"/"+e.Sub, "/"))
		}
	}
	return strings.Join(list, " ")
}

// run runs a command line in the guest, with faults.
func (b *guestBox) run(faults string, shell string) outcomeOf {
	b.t.Helper()
	vm, err := json.Marshal(b.vm)
	if err != nil {
		b.t.Fatal(err)
	}
	write := func(name, text string) string {
		file := filepath.Join(b.dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
		return file
	}
	args := []string{"sandbox", "-dir", b.dir, "-vm", write("vm.json", string(vm)), "-bind", b.bin + "/azprov:/opt/azprov"}
	if faults != "" {
		args = append(args, "-faults", write("faults.json", "["+faults+"]"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "azuresim"), append(args, "--", "sh", "-c", shell)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	o := outcomeOf{output: string(out), took: time.Since(began), code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		b.t.Fatalf("the sandbox hung: %v\n%s", err, out)
	}
	f, err := os.Open(filepath.Join(b.dir, "platform.jsonl"))
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	defer f.Close()
	all, err := sim.ReadEvents(f)
	if err != nil {
		b.t.Fatal(err)
	}
	o.events = all[b.seen:]
	b.seen = len(all)
	return o
}

func (b *guestBox) file(p string) string {
	data, _ := os.ReadFile(filepath.Join(b.dir, "root", p))
	return string(data)
}

func (b *guestBox) report() string {
	pool, err := readKVP([]byte(b.file("var/lib/hyperv/.kvp_pool_1")))
	if err != nil {
		b.t.Fatal(err)
	}
	return pool[kvpReportKey]
}

func TestProvision(t *testing.T) {
	b := newBox(t)
	o := b.run("", "/opt/azprov -customdata run; code=$?; getent hosts edge-fra-07."+testDomain+" >/var/tmp/dns || true; hostname; exit $code")
	if o.code != exitOK || o.reports() != "Ready" || !strings.Contains(o.output, "\nedge-fra-07\n") {
		t.Fatalf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
	if strings.Contains(o.output, "Tr1cky") {
		t.Error("the password is in the output")
	}
	first := o.events[1]
	if first.Type != "DISCOVER" || first.Name != "edge-fra-07" {
		t.Errorf("the first packet: %+v", first)
	}
	for p, want := range map[string]string{
		"etc/hostname": `^edge-fra-07\n$`, "etc/hosts": `(?m)^127\.0\.1\.1\tedge-fra-07$`, "etc/passwd": `(?m)^opsadmin:x:1000:1000::/home/opsadmin:/bin/\w+$`,
		"etc/shadow": `(?m)^opsadmin:\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}:\d+:`, "etc/group": `(?m)^sudo:.*opsadmin`, "etc/sudoers.d/azprov": `opsadmin ALL=\(ALL:ALL\) ALL\n`,
		"home/opsadmin/.ssh/authorized_keys": `^ssh-ed25519 \S+ ops@desk\nsk-ssh-ed25519@openssh.com \S+\n$`, "etc/ssh/sshd_config.d/10-azprov.conf": `PasswordAuthentication yes\n`,
		"etc/resolv.conf": `^# Written by azprov .*\nsearch \S+\nnameserver 168\.63\.129\.16\n$`, "var/lib/azprov/custom-data": `^#!/bin/sh\n`, "var/lib/azprov/instance": `progress=acknowledged\nscript=exit 3\n`,
		"var/lib/waagent/provisioned": `^1A2C6D4F-AB90-DE4C-8F01-23456789ABCD$`, "var/lib/waagent/published_hostname": `^edge-fra-07$`, "var/lib/waagent/ovf-env.xml": `<UserPassword>REDACTED</UserPassword>`,
		"var/tmp/ran": `^ran as 0\n$`, "var/tmp/dns": `^10\.1\.0\.4\s`,
	} {
		if text := b.file(p); !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("%s: %q does not match %s", p, text, want)
		}
	}
	if r := b.report(); !strings.HasPrefix(r, "result=success|agent=azprov/"+version) || !strings.Contains(r, "vm_id=4f6d2c1a-90ab-4cde-8f01-23456789abcd") || !strings.Contains(r, "custom_data=exit 3") {
		t.Errorf("kvp report %q", r)
	}
	secretsAreNowhere(t, b)
	hash := regexp.MustCompile(`(?m)^opsadmin:\$6\$([^$]+)\$[^:]+`).FindStringSubmatch(b.file("etc/shadow"))
	if want := strings.TrimSpace(command(t, "openssl", "passwd", "-6", "-salt", hash[1], "Tr1cky <pass> & more")); hash[0] != "opsadmin:"+want {
		t.Errorf("openssl makes %s of the password, azprov %s", want, hash[0])
	}

	// A second run finds nothing to do and says nothing to Azure.
	before := manifest(t, filepath.Join(b.dir, "root/etc")) + manifest(t, filepath.Join(b.dir, "root/home"))
	o = b.run("", "/opt/azprov -customdata run")
	if o.code != exitOK || o.reports() != "" || before != manifest(t, filepath.Join(b.dir, "root/etc"))+manifest(t, filepath.Join(b.dir, "root/home")) || b.file("var/tmp/ran") != "ran as 0\n" {
		t.Errorf("second run: exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
	// A clone is provisioned afresh.
	b.vm["vmId"], b.vm["hostname"], b.vm["user"] = "00000000-1111-2222-3333-444444444444", "clone-1", "cloned"
	b.vm["sshKeys"] = []any{map[string]any{"value": keyEd25519}}
	o = b.run("", "/opt/azprov")
	if o.code != exitOK || o.reports() != "Ready" || b.file("etc/hostname") != "clone-1\n" || !strings.Contains(b.file("etc/passwd"), "cloned:x:1001:") {
		t.Errorf("clone: exit %d, reports %q\n%s", o.code, o.reports(), o.output)
	}
}

const testDomain = "k3zq1xw2pnuebd4hsoyvtm5gla.gx.internal.cloudapp.net"

// secretsAreNowhere looks for the password in all that a run has left.
func secretsAreNowhere(t *testing.T, b *guestBox) {
	t.Helper()
	for _, top := range []string{"etc", "home", "root", "var", "run", "opt"} {
		filepath.Walk(filepath.Join(b.dir, "root", top), func(p string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() && info.Size() < 1<<20 && !strings.HasSuffix(p, "/opt/azprov") {
				if data, _ := os.ReadFile(p); strings.Contains(string(data), "Tr1cky") {
					t.Errorf("the password stands in %s", strings.TrimPrefix(p, b.dir))
				}
				for _, secret := range []string{"custom-data", "CustomData", "ovf-env.xml", "status.json"} {
					if filepath.Base(p) == secret && info.Mode().Perm() != 0o600 {
						t.Errorf("%s has mode %v", p, info.Mode())
					}
				}
			}
			return nil
		})
	}
}

func TestNoOtherProcess(t *testing.T) {
	need(t, "strace")
	b := newBox(t)
	o := b.run("", "strace -f -e trace=execve,execveat -o /var/tmp/trace /opt/azprov")
	if n := len(regexp.MustCompile(`execve(at)?\(`).FindAllString(b.file("var/tmp/trace"), -1)); o.code != exitOK || n != 1 {
		t.Errorf("exit %d, %d programs were started:\n%s", o.code, n, b.file("var/tmp/trace"))
	}
}

func TestFaults(t *testing.T) {
	const flags = " -deadline 6s -network.wait 3s -media.wait 4s"
	for _, c := range []struct {
		name, faults, flags string
		code                int
		reports, report     string // what the platform took; part of the KVP report
	}{
		{"dvd missing", `{"service":"media","action":"missing"}`, " -imds no -media.wait 500ms", exitFailed, "NotReady/ProvisioningFailed", "result=error|reason=media: find provisioning medium"},
		{"dvd late", `{"service":"media","action":"late","seconds":3}`, "", exitOK, "Ready", "result=success"},
		{"no dhcp answer", `{"service":"dhcp","action":"drop"}`, "", exitUnacknowledged, "", "reason=lease: get a DHCP lease on eth0"},
		{"dhcp nak", `{"service":"dhcp","match":"REQUEST","count":1,"action":"nak"}`, "", exitOK, "Ready", "result=success"},
		{"dhcp garbage", `{"service":"dhcp","count":2,"action":"garbage"}`, "", exitOK, "Ready", "result=success"},
		{"dhcp of others", `{"service":"dhcp","count":1,"action":"wrong-xid"},{"service":"dhcp","after":1,"count":1,"action":"wrong-mac"},{"service":"dhcp","after":2,"count":1,"action":"bad-checksum"}`, "", exitOK, "Ready", "result=success"},
		{"refused, then answering", `{"service":"wire","action":"refuse","seconds":1}`, "", exitOK, "Ready", "result=success"},
		{"reset", `{"service":"wire","count":2,"action":"reset"}`, "", exitOK, "Ready", "result=success"},
		{"503 with retry-after", `{"service":"wire","match":"health","count":1,"action":"status","status":503,"retryAfter":"1"}`, "", exitOK, "Ready", "result=success"},
		{"410", `{"service":"wire","match":"health","count":1,"action":"status","status":410}`, "", exitOK, "Ready", "result=success"},
		{"garbage xml", `{"service":"wire","match":"goalstate","count":1,"action":"garbage"}`, "", exitOK, "Ready", "result=success"},
		{"truncated", `{"service":"wire","match":"goalstate","count":1,"action":"truncate"}`, "", exitOK, "Ready", "result=success"},
		{"body of 1 GB", `{"service":"wire","match":"goalstate","count":1,"action":"oversize"}`, "", exitOK, "Ready", "result=success"},
		{"always a body of 1 GB", `{"service":"wire","match":"goalstate","action":"oversize"}`, "", exitUnacknowledged, "", "reason=goalstate: fetch goal state"},
		{"slow drip", `{"service":"wire","match":"goalstate","action":"drip","bytesPerSecond":50}`, "", exitUnacknowledged, "", "reason=goalstate"},
		{"hang", `{"service":"wire","match":"health","action":"hang"}`, "", exitUnacknowledged, "", "reason=ready"},
		{"redirect", `{"service":"wire","match":"goalstate","action":"redirect"}`, "", exitUnacknowledged, "", "http status 302"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			o := b.run(c.faults, "/opt/azprov"+flags+c.flags)
			if o.code != c.code || o.reports() != c.reports {
				t.Errorf("exit %d, want %d; reports %q, want %q\n%s", o.code, c.code, o.reports(), c.reports, o.output)
			}
			if r := b.report(); !strings.Contains(r, c.report) {
				t.Errorf("kvp report %q lacks %q", r, c.report)
			}
			if o.took > 30*time.Second {
				t.Errorf("ended after %v, the deadline was 6 s", o.took)
			}
			if c.name != "dvd missing" && !strings.Contains(b.file("etc/passwd"), "opsadmin") {
				t.Error("the account was not made")
			}
			if c.code == exitUnacknowledged {
				again := b.run("", "/opt/azprov")
				if again.code != exitOK || again.reports() != "Ready" || !strings.HasPrefix(b.report(), "result=success") {
					t.Errorf("next run: exit %d, reports %q\n%s", again.code, again.reports(), again.output)
				}
			}
			if c.name == "dvd late" {
				last := ""
				for _, e := range o.events {
					if e.Type == "REQUEST" {
						last = e.Name
					}
				}
				if last != "edge-fra-07" {
					t.Errorf("the last request published %q", last)
				}
			}
		})
	}
}

func TestKilledHalfWay(t *testing.T) {
	b := newBox(t)
	for _, after := range []string{"0.003", "0.006", "0.01", "0.02"} {
		b.run("", "timeout -s KILL "+after+" /opt/azprov; true")
	}
	o := b.run("", "/opt/azprov; code=$?; getent passwd opsadmin && getent shadow opsadmin && ls -A /etc /home/opsadmin/.ssh; exit $code")
	if o.code != exitOK || strings.Contains(o.output, ".azprov\n") || strings.Count(b.file("etc/passwd"), "opsadmin") != 2 || !strings.Contains(b.file("var/lib/azprov/instance"), "progress=acknowledged") {
		t.Errorf("exit %d\n%s", o.code, o.output)
	}
}

func TestConfiguredInterfaceIsLeftAlone(t *testing.T) {
	b := newBox(t)
	o := b.run("", "ip addr add 10.1.0.4/24 dev eth0; ip link set eth0 up; ip route add default via 10.1.0.1; ip route >/var/tmp/before; /opt/azprov; code=$?; ip route >/var/tmp/after; exit $code")
	dhcp := 0
	for _, e := range o.events {
		if e.Service == "dhcp" {
			dhcp++
		}
	}
	if o.code != exitOK || dhcp != 0 || o.reports() != "Ready" || b.file("var/tmp/before") != b.file("var/tmp/after") {
		t.Errorf("exit %d, %d DHCP packets, routes %q\n%s", o.code, dhcp, b.file("var/tmp/after"), o.output)
	}
}

func TestLeaseIsApplied(t *testing.T) {
	for name, c := range map[string]struct {
		vm   map[string]any
		want []string
	}{
		"option 249":          {map[string]any{"routeOption": 249}, []string{"default via 10.1.0.1 dev eth0 proto dhcp", "168.63.129.16 via 10.1.0.1"}},
		"router alone":        {map[string]any{"routeOption": 3}, []string{"default via 10.1.0.1 dev eth0 proto dhcp"}},
		"mtu":                 {map[string]any{"mtu": 1400}, []string{"mtu 1400"}},
		"host address":        {map[string]any{"address": "10.9.0.4/32", "gateway": "10.9.255.1"}, []string{"inet 10.9.0.4/32", "default via 10.9.255.1 dev eth0 proto dhcp src 10.9.0.4 onlink"}},
		"no wire server sent": {map[string]any{"noOption245": true}, nil},
		"finite lease":        {map[string]any{"leaseSeconds": 3600}, nil},
	} {
		b := newBox(t)
		for k, v := range c.vm {
			b.vm[k] = v
		}
		o := b.run("", "/opt/azprov -network.wait 5s -deadline 10s; code=$?; ip addr show eth0; ip route; exit $code")
		if o.code != exitOK || o.reports() != "Ready" {
			t.Errorf("%s: exit %d\n%s", name, o.code, o.output)
		}
		for _, want := range c.want {
			if !strings.Contains(o.output, want) {
				t.Errorf("%s: no %q in\n%s", name, want, o.output)
			}
		}
	}
}

func TestSSHLogins(t *testing.T) {
	need(t, "sshd", "ssh", "sshpass", "ssh-keygen")
	for _, allow := range []bool{true, false} {
		b := newBox(t)
		key := filepath.Join(t.TempDir(), "key")
		command(t, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key)
		public, _ := os.ReadFile(key + ".pub")
		private, _ := os.ReadFile(key)
		b.vm["sshKeys"] = []any{map[string]any{"value": string(public)}}
		b.vm["disablePasswordAuthentication"] = !allow
		const login = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5 opsadmin@127.0.0.1"
		script := "/opt/azprov || exit 9; mkdir -p /run/sshd; $(command -v sshd) -o UsePAM=no -E /var/log/sshd; cat >/tmp/key; " +
			// sshd goes to the background before it listens.
			"for i in $(seq 200); do grep -q 'listening on 0.0.0.0' /var/log/sshd && break; sleep 0.05; done; " +
			"chmod 600 /tmp/key; " +
			"ssh -i /tmp/key -o BatchMode=yes " + login + " 'echo key login as $(id -un)'; " +
			"sshpass -p 'Tr1cky <pass> & more' ssh -o PubkeyAuthentication=no -o PreferredAuthentications=password " + login + " 'echo password login as $(id -un)'; cat /var/log/sshd"
		o := b.run("", "cat >/tmp/in <<'KEY'\n"+string(private)+"KEY\nexec </tmp/in; "+script)
		if !strings.Contains(o.output, "key login as opsadmin") || strings.Contains(o.output, "password login as opsadmin") != allow {
			t.Errorf("password logins allowed %v: exit %d\n%s", allow, o.code, o.output)
		}
	}
}

func TestReportOnly(t *testing.T) {
	b := newBox(t)
	o := b.run("", "/opt/azprov report failed 'disk <full> | really'")
	if o.code != exitOK || o.reports() != "NotReady/ProvisioningFailed" || !strings.Contains(b.report(), "'reason=disk <full> | really'") {
		t.Errorf("exit %d, %q\n%s", o.code, o.reports(), o.output)
	}
	if o = b.run("", "/opt/azprov report ready"); o.code != exitOK || o.reports() != "Ready" {
		t.Errorf("exit %d, %q\n%s", o.code, o.reports(), o.output)
	}
	if strings.Contains(b.file("etc/passwd"), "opsadmin") {
		t.Error("a report has provisioned")
	}
}

func TestCommandsAndExitCodes(t *testing.T) {
	b := newBox(t)
	for command, want := range map[string]struct {
		code int
		text string
	}{
		"/opt/azprov version": {exitOK, "azprov " + version},
		"/opt/azprov help":    {exitOK, "exit codes"},
		"/opt/azprov plan":    {exitOK, "ovf-env.xml"},
		"/opt/azprov plan -json | python3 -m json.tool >/dev/null || /opt/azprov plan -json": {exitOK, ""},
		"/opt/azprov -nonsense 1":   {exitUsage, "unknown key"},
		"/opt/azprov nonsense":      {exitUsage, "unknown command"},
		"/opt/azprov -media.wait":   {exitUsage, "no value"},
		"/opt/azprov -skip nothing": {exitUsage, "no such step"},
		"/opt/azprov -root /none":   {exitUsage, "/none"},
		"echo 'medai = x' > /etc/azprov.conf; /opt/azprov; code=$?; rm /etc/azprov.conf; exit $code": {exitUsage, "azprov.conf:1: medai: unknown key"},
		"setpriv --reuid 65534 --clear-groups /opt/azprov":                                           {exitUsage, "run it as root"},
		"/opt/azprov -sysfs /none": {exitNotAzure, "not an Azure VM"},
		"rm -f /run/azprov/status.json /var/lib/azprov/status.json; /opt/azprov status": {exitFailed, "no run"},
		"/opt/azprov report maybe":                                  {exitUsage, "report takes"},
		"/opt/azprov show media /dev/sr0":                           {exitOK, `"host_name": "edge-fra-07"`},
		"/opt/azprov show media /etc/passwd":                        {exitFailed, "no UDF, ISO 9660 or FAT"},
		"/opt/azprov show lease /etc/passwd":                        {exitFailed, "dhcp:"},
		"/opt/azprov show nothing /etc/passwd":                      {exitUsage, "none of"},
		"/opt/azprov -skip link,lease,goalstate,ready -deadline 2s": {exitUnacknowledged, "user"},
	} {
		o := b.run("", command)
		if o.code != want.code || !strings.Contains(o.output, want.text) {
			t.Errorf("%s: exit %d, want %d with %q\n%s", command, o.code, want.code, want.text, o.output)
		}
		if strings.Contains(o.output, "Tr1cky") {
			t.Errorf("%s shows the password", command)
		}
	}
}

func TestSandboxLeavesTheHostAlone(t *testing.T) {
	b := newBox(t)
	state := func() string {
		mounts, _ := os.ReadFile("/proc/self/mounts")
		nics, _ := net.Interfaces()
		name, _ := os.Hostname()
		var names []string
		for _, n := range nics {
			names = append(names, n.Name)
		}
		return name + fmt.Sprint(names) + string(mounts)
	}
	before := state()
	o := b.run("", "hostname changed; mount -t tmpfs x /mnt; ip link add dummy0 type veth peer name dummy1; touch /usr/x 2>&1; ls /proc | grep -c '^[0-9]'; ip route get 8.8.8.8; ls /sys/block /root")
	if after := state(); after != before {
		t.Errorf("the host changed:\n%s", lineDiff(before, after))
	}
	if !strings.Contains(o.output, "Read-only file system") || !strings.Contains(o.output, "unreachable") || strings.Contains(o.output, "vda") {
		t.Errorf("the guest sees too much:\n%s", o.output)
	}
}
