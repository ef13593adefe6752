package main

import (
	"errors"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// fitness is how a check ended.
type fitness string

const (
	fine    fitness = "ok"
	doubt   fitness = "warning"
	lack    fitness = "lacks"
	unknown fitness = "unknown"
)

// finding is the outcome of one check and what a lack costs.
type finding struct {
	check       string
	result      fitness
	found, cost string
}

// checkup is a run of azprov check.
type checkup struct {
	m     *machine
	image bool // a root is looked at, not only a kernel
	early bool // azprov is in the initramfs
	// failed is set when the one kernel that was named can't be judged.
	failed bool
	list   []finding
}

func (c *checkup) add(check string, result fitness, found, cost string) {
	c.list = append(c.list, finding{check, result, oneLine(found, 400), cost})
}

// check is the command: it says what an image or a kernel lacks for Azure, and
// ends with exit code 0 when nothing that is needed is lacking, else 1. Its
// -config is a kernel's configuration. With a kernel alone no root is looked at.
func check(a *arguments, stdout, stderr io.Writer) int {
	if a.kernel != "" && a.config != "" {
		return complain(stderr, errors.New("check takes -kernel or -config, not both"))
	}
	root := a.root
	if root == "" {
		root = "/"
	}
	g, err := openGuest(root)
	if err != nil {
		return complain(stderr, err)
	}
	defer g.close()
	m := &machine{cfg: defaultConfig(), guest: g, sysfs: a.sysfs, procfs: a.procfs, devfs: a.devfs, log: newConsole(a.devfs, false), now: time.Now}
	for _, kv := range a.keys {
		if err := m.cfg.set("flag", kv[0], kv[1]); err != nil {
			return complain(stderr, err)
		}
	}
	c := &checkup{m: m, image: a.root != "" || a.kernel+a.config == ""}
	c.checkKernel(a.kernel, a.config)
	if c.image {
		c.checkImage()
	}
	return c.print(stdout, a.json)
}

func (c *checkup) print(stdout io.Writer, json bool) int {
	code, text := exitOK, "nothing that Azure needs is lacking"
	list := []any{}
	if c.failed {
		code, text = exitFailed, "the kernel can't be judged"
	}
	for _, f := range c.list {
		if f.result == lack {
			code, text = exitFailed, "not fit for Azure"
		}
		if json {
			o := object{{"check", f.check}, {"result", string(f.result)}, {"found", f.found}}
			if f.result != fine {
				o = append(o, member{"cost", f.cost})
			}
			list = append(list, o)
			continue
		}
		fprintf(stdout, "%-8s %-28s %s\n", string(f.result), f.check, f.found)
		if f.result != fine && f.cost != "" {
			fprintf(stdout, "%38s%s\n", "", f.cost)
		}
	}
	if json {
		io.WriteString(stdout, indentJSON(object{{"schema", 1}, {"fit", code == exitOK}, {"findings", list}}))
	} else {
		io.WriteString(stdout, text+"\n")
	}
	return code
}

func (c *checkup) checkImage() {
	c.checkProvisioners()
	c.checkLogins()
	c.checkLeftovers()
}

// otherProvisioners would run as well, a row each:
// name | systemd units | other starts | how to switch it off.
const otherProvisioners = `cloud-init|cloud-init.service cloud-init-main.service cloud-init-local.service|/etc/runlevels/*/cloud-init* /etc/rc[2-5S].d/S??cloud-init*|touch /etc/cloud/cloud-init.disabled, or remove the package
waagent|walinuxagent.service waagent.service|/etc/runlevels/*/waagent /etc/rc[2-5S].d/S??waagent /etc/rc[2-5S].d/S??walinuxagent|Provisioning.Agent=disabled in /etc/waagent.conf keeps it for extensions; or systemctl mask walinuxagent.service waagent.service
azure-init|azure-init.service||systemctl mask azure-init.service`

func (c *checkup) checkProvisioners() {
	g := c.m.guest
	others := false
	for _, row := range strings.Split(otherProvisioners, "\n") {
		f := strings.Split(row, "|")
		started := ""
		for _, unit := range strings.Fields(f[1]) {
			if s := c.unitStarted(unit); s != "" && started == "" {
				started = s
			}
		}
		if list := g.glob(f[2]); started == "" && len(list) > 0 {
			started = list[0]
		}
		if started == "" || f[0] == "cloud-init" && g.isFile("/etc/cloud/cloud-init.disabled") || f[0] == "waagent" && c.waagentIsTame() {
			continue
		}
		others = true
		c.add("provisioner "+f[0], lack, "enabled by "+started, "it and azprov both provision the VM and report it ready; to switch it off: "+f[3])
	}
	if !others {
		c.add("other provisioners", fine, "none enabled", "")
	}
	how := c.azprovStart()
	if how == "" {
		c.add("azprov", lack, "nothing in the image starts it", "the VM is not provisioned; init/ and initramfs/ of azprov have the files for every init and generator")
	} else {
		c.add("azprov", fine, "started by "+how, "")
	}
	if data, err := g.read("/etc/azprov.conf", maxConfig); err == nil {
		if err := defaultConfig().readFile("/etc/azprov.conf", strings.NewReader(string(data))); err != nil {
			c.add("azprov.conf", lack, err.Error(), "azprov ends with code 2 before anything is provisioned")
		}
	}
	managers := ""
	for _, row := range []string{"systemd-networkd.service", "NetworkManager.service", "networking.service", "dhcpcd.service", "connman.service", "wicked.service"} {
		if c.unitStarted(row) != "" {
			managers = joinTexts(managers, strings.TrimSuffix(row, ".service"))
		}
	}
	for _, p := range g.glob("/etc/runlevels/*/networking /etc/runlevels/*/dhcpcd") {
		managers = joinTexts(managers, path.Base(p))
	}
	if managers == "" {
		managers = "by azprov at every boot"
	}
	c.add("network", fine, managers, "")
}

// unitStarted says what starts a systemd unit at boot; "" when nothing does.
func (c *checkup) unitStarted(unit string) string {
	g := c.m.guest
	if dir, err := g.resolve("/etc/systemd/system"); err == nil {
		if target, err := g.root.readlink(path.Join(dir, unit)); err == nil && target == "/dev/null" {
			return "" // masked
		}
	}
	for _, p := range g.glob("/etc/systemd/system/*.wants/" + unit + " /etc/systemd/system/*.requires/" + unit + " /usr/lib/systemd/system/*.wants/" + unit + " /lib/systemd/system/*.wants/" + unit) {
		return p
	}
	return ""
}

// waagentIsTame says whether the Linux agent is configured not to provision.
func (c *checkup) waagentIsTame() bool {
	s := loadSettings(c.m.guest, "/etc/waagent.conf")
	agent, enabled := strings.ToLower(s["Provisioning.Agent"]), s["Provisioning.Enabled"]
	return agent == "disabled" || agent == "" && enabled == "n"
}

// azprovStart says what starts azprov at boot; "" when nothing does.
func (c *checkup) azprovStart() string {
	g := c.m.guest
	if s := c.unitStarted("azprov.service"); s != "" {
		return s
	}
	for _, p := range g.glob("/etc/runlevels/*/azprov /etc/rc[2-5S].d/S??azprov /etc/init.d/S??azprov /etc/runit/core-services/*azprov* /etc/s6-rc/source/azprov " +
		"/etc/initramfs-tools/scripts/init-bottom/azprov /usr/lib/dracut/modules.d/95azprov /etc/initcpio/hooks/azprov /usr/lib/initcpio/hooks/azprov") {
		return p
	}
	for _, p := range []string{"/etc/inittab", "/etc/init.d/rcS", "/etc/rc.local"} {
		data, _ := g.read(p, maxLinesFile)
		for _, line := range strings.Split(string(data), "\n") {
			if line = strings.TrimSpace(line); strings.Contains(line, "azprov") && line[0] != '#' {
				return p
			}
		}
	}
	if c.early {
		return "the initramfs"
	}
	return ""
}

// checkLogins looks who can log in to every VM of the image.
func (c *checkup) checkLogins() {
	g := c.m.guest
	sshd := ""
	for _, p := range []string{"/usr/sbin/sshd", "/usr/sbin/dropbear", "/usr/bin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if sshd == "" && g.isExecutable(p) {
			sshd = p
		}
	}
	if sshd == "" {
		c.add("sshd", doubt, "neither sshd nor dropbear", "no login over the network")
	} else {
		c.add("sshd", fine, sshd, "")
	}
	files, err := loadAccountFiles(g, "")
	if err != nil {
		c.add("accounts", unknown, err.Error(), "")
		return
	}
	u := &userEdit{m: c.m, files: files}
	good := true
	for i := range files.passwd.lines {
		f := files.passwd.fields(i, 7)
		if f == nil {
			continue
		}
		name := f[0]
		switch {
		case u.hash(name) == "" && (f[1] == "" || f[1] == "x" && files.shadow.find(name) >= 0):
			c.add("account "+name, lack, "empty password", "anyone can log in as "+name+" on every VM of the image")
			good = false
		case u.hasPassword(name):
			c.add("account "+name, doubt, "has a password", "it is the same on every VM of the image: root.lock=yes, or prepare -user NAME")
			good = false
		}
		if strings.ContainsAny(f[5], "*?[\\ \t") {
			continue
		}
		for _, p := range g.glob(f[5] + "/.ssh/authorized_keys") {
			if data, err := g.read(p, maxLinesFile); err == nil && len(strings.TrimSpace(string(data))) > 0 {
				c.add("account "+name, doubt, p, "the owners of these keys can log in to every VM of the image")
				good = false
			}
		}
	}
	if good {
		c.add("accounts", fine, "no passwords, no keys", "")
	}
}

// checkLeftovers lists what prepare would change, a line for each reason.
func (c *checkup) checkLeftovers() {
	p, err := c.m.planPreparation("")
	if err != nil {
		c.add("image", unknown, err.Error(), "")
	}
	var reasons []string
	for _, ch := range p.changes {
		if slices.Contains(reasons, ch.why) {
			continue
		}
		reasons = append(reasons, ch.why)
		more := -1
		for _, other := range p.changes {
			if other.why == ch.why {
				more++
			}
		}
		found := ch.path
		if more > 0 {
			found += sprintf(" and %d more", more)
		}
		check, result := "image", doubt
		if strings.HasPrefix(ch.why, "kernel command line") {
			check = "boot loader"
		}
		for _, grave := range []string{"SSH host key", "machine id", "random seed", "secret", "state of"} {
			if strings.HasPrefix(ch.why, grave) {
				result = lack
			}
		}
		c.add(check, result, found, ch.why+": azprov prepare")
	}
	for _, n := range p.notes {
		c.add("not understood", unknown, n.Step+": "+n.Text, "")
	}
	if len(reasons) == 0 {
		c.add("image", fine, "nothing of one VM is left", "")
	}
}
