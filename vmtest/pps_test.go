package vmtest

import (
	"fmt"
	"strings"
	"testing"
)

// poolVM describes a VM that waits in a pool, and what it becomes.
func (l *lab) poolVM(t *testing.T, kind string) {
	t.Helper()
	l.vm = l.write(t, "pool.json", fmt.Sprintf(`{"hostname":"pool-1","user":"pooluser","password":"P00l!secret","generation":1,"preprovisionedVm":true,"preprovisionedVmType":%q,"assignAfter":3,
		"assigned":{"hostname":"edge-7","user":%q,"password":"","address":"10.2.0.9/24","gateway":"10.2.0.1","sshKeys":[{"value":%q}]}}`, kind, l.user, l.key), 0o600)
}

// customers is what the console must show of the VM after its pool.
func (l *lab) customers() []string {
	return []string{"Ready acknowledged", "edge-7", "(" + l.user + ")", l.key, "progress=acknowledged", "inet addr:10.2.0.9", "Power down"}
}

const showVM = "busybox hostname\nbusybox id pooluser\nbusybox id %[1]s; busybox cat /home/%[1]s/.ssh/authorized_keys\nbusybox cat /var/lib/azprov/instance\nbusybox ifconfig\nbusybox poweroff -f\n"

func (l *lab) isTheCustomers(t *testing.T, b *booted) {
	t.Helper()
	b.expect(t, l.customers()...)
	b.end(t)
	var states []string
	for _, h := range b.health(t) {
		if h.Status < 300 && h.Status > 0 {
			states = append(states, h.State)
		}
	}
	if got := strings.Join(states, " "); got != "Ready Ready" {
		t.Errorf("health reports: %s", got)
	}
	if text := b.console(); strings.Contains(text, "(pooluser)") {
		t.Error("the pool's account was made")
	}
}

// The network card is taken away and another comes while azprov, as /init, waits.
func TestPoolSavable(t *testing.T) {
	l := newLab(t)
	l.poolVM(t, "Savable")
	show := l.write(t, "show", "#!/bin/sh\nexport PATH=/bin\n"+fmt.Sprintf(showVM, l.user), 0o755)
	image := l.image(t, "s.img", append(l.busyboxFiles(t), "-modules", l.modules, "-file", show+":/show")...)
	b := l.boot(t, "azprov.init.command=/show", "-initrd", image, "-keep")
	b.expect(t, "waiting to be given to a customer")
	l.isTheCustomers(t, b)
}

// azprov is killed before the pool's Ready is acknowledged and while it waits, and
// started again; meanwhile the cable is pulled, or the card.
func TestPoolKilled(t *testing.T) {
	for _, kind := range []string{"Running", "Savable"} {
		l := newLab(t)
		l.poolVM(t, kind)
		l.faults = l.write(t, "faults.json", `[{"service":"wire","match":"health","count":1,"action":"hang"}]`, 0o600)
		kill := func(at string) string {
			return "azprov -only '' &\nuntil busybox grep -q progress=" + at + "$ /var/lib/azprov/instance 2>/dev/null; do busybox usleep 50000; done\nbusybox kill -9 $!\necho killed at " + at + "\n"
		}
		check := l.write(t, "check", "#!/bin/sh\nexport PATH=/bin\n"+kill("pooling")+kill("pooled")+"azprov -only ''\n"+fmt.Sprintf(showVM, l.user), 0o755)
		image := l.image(t, "k.img", append(l.busyboxFiles(t), "-modules", l.modules, "-file", check+":/check", "-file", l.azprov+":/bin/azprov")...)
		b := l.boot(t, "azprov.init.command=/check azprov.only=entropy", "-initrd", image, "-keep", "-faults", l.faults)
		b.expect(t, "killed at pooling", "killed at pooled")
		l.isTheCustomers(t, b)
	}
}
