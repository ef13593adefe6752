package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const usageText = `usage: azprov [FLAGS]                        provision this VM and report Ready
       azprov plan                           print the steps of a run
       azprov status                         print the last run
       azprov kernel                         only entropy, timeouts and console
       azprov hostname NAME                  rename the running VM: kernel, files, DNS
       azprov watch                          stay: renew leases, follow links, host name and disks
       azprov report ready|failed [TEXT]     only tell Azure
       azprov show media|goalstate|lease|imds|certificates FILE
                                             parse a captured payload, print it as JSON
       azprov disk [-n]                      set the resource disk up; -n only says what would be done
       azprov init [-- COMMAND]              be PID 1: load modules, provision, then COMMAND or root=
       azprov prepare [-user NAME] [-n]      make an image of a root: remove what is one VM's (and the account),
                                             set up the boot loader; -n only prints the changes
       azprov check [-kernel FILE|-config FILE]
                                             what an image (-root) or a kernel lacks for Azure
       azprov version | help

flags: -root DIR      root directory to provision (default /)
       -config FILE   configuration file (default /etc/azprov.conf of the root); with check, of a kernel
       -json          machine-readable output
       -sysfs DIR, -procfs DIR, -devfs DIR
                      other trees than /sys, /proc, /dev
       -key FILE, -cert FILE
                      PEM files of the transport key and its certificate, for show certificates
       -KEY VALUE     any configuration key:
`

// arguments is a parsed command line.
type arguments struct {
	words                              []string // command and operands
	root, config, sysfs, procfs, devfs string
	user, kernel                       string // of prepare, of check
	key, cert                          string // of the transport
	json, dry                          bool
	keys                               [][2]string // configuration keys given as flags
}

var errHelp = errors.New("help")

// parseArguments takes flags before and after the words, with one dash or two,
// as -flag value or -flag=value. "--" ends the flags.
func parseArguments(args []string) (*arguments, error) {
	a := &arguments{sysfs: "/sys", procfs: "/proc", devfs: "/dev"}
	values := map[string]*string{"root": &a.root, "config": &a.config, "sysfs": &a.sysfs, "procfs": &a.procfs, "devfs": &a.devfs, "user": &a.user, "kernel": &a.kernel,
		"key": &a.key, "cert": &a.cert}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			a.words = append(a.words, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			a.words = append(a.words, arg)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		switch name {
		case "h", "help":
			return nil, errHelp
		case "n":
			a.dry = true
			continue
		case "json":
			if given {
				v, err := parseBool(value)
				if err != nil {
					return nil, &configError{"flag", "-json", err}
				}
				a.json = v
			} else {
				a.json = true
			}
			continue
		}
		if !given {
			if i++; i == len(args) {
				return nil, &configError{"flag", arg, errors.New("no value")}
			}
			value = args[i]
		}
		if p := values[name]; p != nil {
			*p = value
		} else {
			a.keys = append(a.keys, [2]string{name, value})
		}
	}
	return a, nil
}

func usage(w io.Writer) {
	io.WriteString(w, usageText)
	for _, o := range defaultConfig().options() {
		value := ""
		if o.value != "" {
			value = " (" + o.value + ")"
		}
		fprintf(w, "         %-20s %s%s\n", o.name, o.help, value)
	}
	io.WriteString(w, "exit codes: 0 provisioned or nothing to do, 1 provisioning failed, 2 usage or configuration,\n"+
		"            3 not an Azure VM, 4 applied but Azure has not acknowledged Ready\n")
}

// run is azprov: it dispatches the command and returns the exit code.
func run(args []string, stdout, stderr io.Writer, began time.Time) int {
	unix.Umask(0o022)
	a, err := parseArguments(args)
	if err == errHelp {
		usage(stdout)
		return exitOK
	}
	if err != nil {
		return complain(stderr, err)
	}
	command := strings.Join(a.words, " ")
	if a.user != "" && command != "prepare" || a.dry && command != "prepare" && command != "disk" || a.kernel != "" && command != "check" {
		return complain(stderr, errors.New("-user is a flag of azprov prepare, -n of prepare and disk, -kernel of check"))
	}
	if command == "check" {
		return check(a, stdout, stderr)
	}
	if a.root == "" {
		a.root = "/"
	}
	if len(a.words) == 0 {
		return a.withMachine(stderr, func(m *machine) int { return provision(m, began) })
	}
	var operands []string
	command, operands = a.words[0], a.words[1:]
	if command == "kernel" && len(operands) == 0 {
		a.keys = append(a.keys, [2]string{"only", kernelSteps})
		return a.withMachine(stderr, func(m *machine) int { return provision(m, began) })
	}
	switch {
	case command == "help":
		usage(stdout)
		return exitOK
	case command == "version" && len(operands) == 0:
		io.WriteString(stdout, "azprov "+version+"\n")
		return exitOK
	case command == "plan" && len(operands) == 0:
		return a.withMachine(stderr, func(m *machine) int { return printPlan(stdout, m.cfg, a.json) })
	case command == "status" && len(operands) == 0:
		return printStatus(stdout, stderr, a)
	case command == "show" && len(operands) == 2:
		return a.show(stdout, stderr, operands[0], operands[1])
	case command == "prepare" && len(operands) == 0:
		return a.withMachine(stderr, func(m *machine) int { return prepare(m, a, stdout, os.Stdin) })
	case command == "disk" && len(operands) == 0:
		return a.withMachine(stderr, func(m *machine) int { return diskCommand(m, a.dry, stdout) })
	case command == "hostname" && len(operands) == 1:
		return a.withMachine(stderr, func(m *machine) int { return renameCommand(m, operands[0], began) })
	case command == "watch" && len(operands) == 0:
		return a.withMachine(stderr, watchCommand)
	case command == "report" && (len(operands) == 1 || len(operands) == 2):
		return a.withMachine(stderr, func(m *machine) int { return reportOnly(m, operands, began, stderr) })
	}
	return complain(stderr, errorf("unknown command or wrong number of words: %s", oneLine(strings.Join(a.words, " "), 80)))
}

func complain(stderr io.Writer, err error) int {
	fprintf(stderr, "azprov: %s\nazprov: try azprov help\n", oneLine(err.Error(), 900))
	return exitUsage
}

// withMachine opens the root, loads the configuration and calls f.
func (a *arguments) withMachine(stderr io.Writer, f func(*machine) int) int {
	g, err := openGuest(a.root)
	if err != nil {
		return complain(stderr, err)
	}
	defer g.close()
	cfg, err := loadConfig(g, a.config, a.procfs)
	if err != nil {
		return complain(stderr, err)
	}
	for _, kv := range a.keys {
		if err := cfg.set("flag", kv[0], kv[1]); err != nil {
			return complain(stderr, err)
		}
	}
	for i, name := range append(slices.Clone(cfg.Skip), cfg.Only...) {
		if !hasStep(plan(cfg), name) {
			key := "skip"
			if i >= len(cfg.Skip) {
				key = "only"
			}
			return complain(stderr, &configError{key, name, errors.New("no such step; azprov plan lists them")})
		}
	}
	m := &machine{cfg: cfg, guest: g, sysfs: a.sysfs, procfs: a.procfs, devfs: a.devfs, runfs: "/run",
		log: newConsole(a.devfs, a.json), now: time.Now}
	if cfg.Console == "serial" {
		m.log.also = m.serialVoice()
	}
	return f(m)
}

func hasStep(plan []step, name string) bool {
	for _, s := range plan {
		if s.name == name {
			return true
		}
	}
	return false
}

// prepareRun refuses machines that are not Azure VMs, takes the lock and loads the state.
func prepareRun(m *machine) (*boot, func(), int) {
	if m.platform() == "" && m.cfg.Media == "" && !m.cfg.Force {
		m.log.fail("azprov", "not an Azure VM: "+m.sys("class/dmi/id/chassis_asset_tag")+" does not say so (-force yes runs all the same)")
		return nil, nil, exitNotAzure
	}
	if os.Geteuid() != 0 {
		m.log.fail("azprov", "only root can provision and report: run it as root")
		return nil, nil, exitUsage
	}
	lock, err := lockState(m.guest)
	if errors.Is(err, unix.EWOULDBLOCK) {
		m.log.fail("state", err.Error())
		return nil, nil, exitFailed
	}
	// Without a lock, on a read-only root say, the run goes on: the step that
	// can't write tells Azure why.
	return newBoot(m), func() { lock.Close() }, exitOK
}

// provision is the main command: the whole plan, as far as it has work.
func provision(m *machine, began time.Time) int {
	b, unlock, code := prepareRun(m)
	if b == nil {
		return code
	}
	defer unlock()
	if b.partial() {
		return b.finish(b.runAll(began))
	}
	if b.inPool() {
		b = b.reuse(false)
	}
	results := b.runAll(began)
	if b.pool != nil {
		b.finish(results)
		if err := b.waitInPool(); err != nil {
			b.log.fail("pool", err.Error())
			return exitFailed
		}
		b = b.reuse(true)
		results = b.runAll(time.Now())
	}
	return b.finish(results)
}

// runAll runs the steps that have work, or those that were asked for.
func (b *boot) runAll(began time.Time) []result {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Deadline)
	defer cancel()
	steps := plan(b.cfg)
	picked := pick(steps, b.cfg.Only)
	connected := b.lease != nil // since the VM has left a pool
	return b.runPlan(ctx, steps, began, func(s step) bool {
		if connected && (s.name == "link" || s.name == "lease") {
			return false
		}
		return s.when >= b.phase && (len(picked) == 0 || slices.Contains(picked, s.name))
	})
}

// finish says how the run ended and keeps its status.
func (b *boot) finish(results []result) int {
	defer b.spec.wipe()
	if err := b.guest.settle(); err != nil {
		b.warn("state", "%v", err)
	}
	code := b.exitCode()
	if err := b.saveStatus(b.status(results, code)); err != nil {
		b.warn("state", "%v", err)
	}
	took := time.Since(b.run.began)
	switch {
	case b.partial() && code == exitFailed:
		b.log.fail("azprov", "a step failed, of those that were asked for")
	case b.partial():
		b.log.step("azprov", "only "+strings.Join(b.cfg.Only, ", "), took)
	case b.pool != nil:
		b.log.step("azprov", "waiting to be given to a customer", took)
	case code == exitFailed:
		b.log.fail("azprov", "provisioning failed")
	case code == exitUnacknowledged:
		b.log.fail("azprov", "applied, but Azure has not acknowledged Ready; the next run reports it again")
	case b.readyAfter > 0:
		b.log.step("azprov", "provisioned, Ready acknowledged", b.readyAfter)
	case slices.ContainsFunc(results, func(r result) bool { return r.Outcome == failed }):
		b.log.fail("azprov", "provisioned before; this boot's network is not as it should be")
	default:
		b.log.step("azprov", "provisioned before, nothing to do", took)
	}
	return code
}

func (b *boot) exitCode() int {
	switch {
	case b.run.firstFailure(required) != nil, b.partial() && b.run.firstFailure(contact) != nil:
		return exitFailed
	case b.partial():
		return exitOK
	case b.instance.Progress != acknowledged:
		return exitUnacknowledged
	}
	return exitOK
}

// reportOnly tells Azure what another provisioner has done: "ready", or
// "failed" with a text.
func reportOnly(m *machine, operands []string, began time.Time, stderr io.Writer) int {
	h := health{State: "Ready"}
	text := strings.Join(operands[1:], " ")
	switch {
	case operands[0] == "failed" && text != "":
		h = health{State: "NotReady", SubStatus: "ProvisioningFailed"}
	case operands[0] == "ready" && text == "":
	default:
		return complain(stderr, errors.New("report takes ready, or failed and a text"))
	}
	b, unlock, code := prepareRun(m)
	if b == nil {
		return code
	}
	defer unlock()
	b.phase = unacknowledged
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.Deadline)
	defer cancel()
	steps := rows(plan(m.cfg), "link", "lease", "goalstate")
	tell := func(b *boot, ctx context.Context) (string, error) {
		rep := b.newReport("success")
		if h.State != "Ready" {
			rep = b.newReport("error")
			rep.Reason = text
			h.Description = rep.text(healthTextLimit, escapedLen)
			b.writeReport(rep)
		}
		if err := b.wire.report(ctx, b.goal, h); err != nil {
			return "", err
		}
		if h.State == "Ready" {
			b.writeReport(rep)
		}
		return h.State + " acknowledged", nil
	}
	steps = append(steps, step{name: "report", needs: []string{"goalstate"}, weight: contact, when: everyBoot, run: tell})
	b.runPlan(ctx, steps, began, func(step) bool { return true })
	if b.run.firstFailure(contact) != nil {
		return exitUnacknowledged
	}
	if h.State == "Ready" {
		b.recordReady()
	}
	return exitOK
}

// recordReady notes a Ready that was reported by hand, so that a later run does
// not provision what another program has.
func (b *boot) recordReady() {
	b.instance = instance{ID: b.instanceID(), Progress: acknowledged}
	if err := b.instance.save(b.guest); err != nil {
		b.warn("state", "%v", err)
	}
}

// show parses a captured payload and prints it as JSON, secrets redacted.
func (a *arguments) show(stdout, stderr io.Writer, kind, file string) int {
	o, err := a.showFile(kind, file)
	if err != nil {
		fprintf(stderr, "azprov: %s\n", oneLine(err.Error(), 900))
		var bad *configError
		if errors.As(err, &bad) {
			return exitUsage
		}
		return exitFailed
	}
	io.WriteString(stdout, indentJSON(o))
	return exitOK
}

func (a *arguments) showFile(kind, file string) (object, error) {
	switch kind {
	case "media":
		return showMedia(file)
	case "certificates":
		return showCertificates(file, a.key, a.cert)
	case "goalstate", "lease", sourceIMDS:
	default:
		return nil, &configError{"show", kind, errors.New("none of media, goalstate, lease, imds, certificates")}
	}
	data, err := readPayload(file)
	if err != nil {
		return nil, err
	}
	if kind == sourceIMDS {
		md, err := parseIMDS(data)
		if err != nil {
			return nil, failure("parse instance metadata", file, err)
		}
		return md.json(), nil
	}
	if kind == "goalstate" {
		gs, err := parseGoalState(data)
		if err != nil {
			return nil, failure("parse goal state", file, err)
		}
		return gs.json(), nil
	}
	d, err := parseDHCP(data)
	if err != nil {
		return nil, failure("parse DHCP packet", file, err)
	}
	return d.json(), nil
}

// maxPayload is the size of the largest payload that show takes.
const maxPayload = 1 << 20

// showMedia reads a medium as a run would, but at once, and prints its document.
func showMedia(file string) (object, error) {
	m := &machine{cfg: defaultConfig(), sysfs: "/sys", procfs: "/proc", devfs: "/dev", log: &console{w: io.Discard}, now: time.Now}
	m.cfg.Media, m.cfg.MediaWait = file, 0
	med, err := m.findMedium(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	defer med.OVF.wipe()
	s, err := parseOVF(med.OVF)
	if err != nil {
		return nil, failure("parse ovf-env.xml", file, err)
	}
	defer s.wipe()
	return append(object{{"file_system", med.FileSystem}, {"label", med.Label}}, s.json()...), nil
}
