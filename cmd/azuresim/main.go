// Command azuresim is a simulated Azure host platform: provisioning media, DHCP,
// DNS, wire server and metadata service for VMs that a small file describes, and
// a sandbox in which a provisioner can be tried without a VM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"azprov/sim"
)

const usage = `usage: azuresim media -o FILE [-vm FILE] [-format udf|bridge|ovf|dir] [-udf 1.02|1.50|2.01]
       azuresim serve -interface NAME [-vm FILE] [-faults FILE] [-log FILE]
       azuresim sandbox [-vm FILE] [-faults FILE] [-log FILE] [-dir DIR] [-bind HOST:GUEST]
                        [-media-late DURATION] [-- COMMAND ARG...]
       azuresim boot -kernel FILE [-initrd FILE] [-disk FILE] [-append WORDS] [-gen 1|2] [-firmware FILE]
                     [-resource-disk SIZE|./FILE] [-memory MB] [-cpus N] [-accel tcg|kvm] [-ssh PORT]
                     [-vm FILE] [-faults FILE] [-log FILE] [-timeline FILE.svg] [-timeout DURATION] [-keep]
       azuresim timeline -o FILE.svg [-log FILE] STATUS.json
       azuresim help

media     writes a provisioning DVD as Azure makes it, or its document alone
serve     runs DHCP, DNS, wire server and metadata service on an interface that
          holds 168.63.129.16 and 169.254.169.254
sandbox   runs a command (a shell) in a guest of its own beside a platform of its
          own: network, mounts, host name and processes are separate, the root
          directory is a scratch one (kept below DIR/root with -dir)
boot      boots a kernel in QEMU beside a platform of its own, prints the serial
          console and how to log in, and ends at Ready or, with -keep, when the
          machine does
timeline  draws the steps of azprov's status.json, and what the platform saw

The VMs' description, the faults and the log are JSON; without a description
there is one VM with defaults.
`

func main() {
	sim.RunStage()
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	commands := map[string]func([]string) (int, error){"media": media, "serve": serve, "sandbox": sandbox, "boot": boot, "timeline": timeline}
	if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return 0
	}
	f := commands[args[0]]
	if f == nil {
		fmt.Fprintf(os.Stderr, "azuresim: no command %q\n%s", args[0], usage)
		return 2
	}
	code, err := f(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "azuresim:", err)
		if code == 0 {
			code = 1
		}
	}
	return code
}

// flags parses a command's flags; wrong ones are a usage error.
func flags(name string, args []string, define func(*flag.FlagSet)) ([]string, error) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(os.Stderr)
	fs.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	define(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return fs.Args(), nil
}

func loadVMs(file string) ([]*sim.VM, error) {
	if file != "" {
		return sim.LoadVMs(file)
	}
	vm := &sim.VM{}
	return []*sim.VM{vm}, vm.Defaults(0)
}

func media(args []string) (int, error) {
	var file, out, format, revision string
	rest, err := flags("media", args, func(fs *flag.FlagSet) {
		fs.StringVar(&file, "vm", "", "")
		fs.StringVar(&out, "o", "", "")
		fs.StringVar(&format, "format", "bridge", "")
		fs.StringVar(&revision, "udf", "1.02", "")
	})
	if err != nil || len(rest) > 0 || out == "" {
		return 2, errors.Join(err, errors.New("media needs -o FILE and no other words"))
	}
	vms, err := loadVMs(file)
	if err != nil {
		return 1, err
	}
	doc := vms[0].OVF()
	switch format {
	case "ovf":
		return 0, os.WriteFile(out, doc, 0o600)
	case "dir":
		if err := os.MkdirAll(out, 0o700); err != nil {
			return 1, err
		}
		return 0, os.WriteFile(filepath.Join(out, "ovf-env.xml"), doc, 0o600)
	}
	revisions := map[string]uint16{"1.02": 0x0102, "1.50": 0x0150, "2.01": 0x0201}
	now := time.Now()
	image, err := sim.WriteDVD(sim.MediaFormat(format), revisions[revision], sim.Label(now), doc, now)
	if err != nil {
		return 2, err
	}
	return 0, os.WriteFile(out, image, 0o600)
}

func serve(args []string) (int, error) {
	var file, faultFile, logFile, device string
	rest, err := flags("serve", args, func(fs *flag.FlagSet) {
		fs.StringVar(&file, "vm", "", "")
		fs.StringVar(&faultFile, "faults", "", "")
		fs.StringVar(&logFile, "log", "", "")
		fs.StringVar(&device, "interface", "", "")
	})
	if err != nil || len(rest) > 0 || device == "" {
		return 2, errors.Join(err, errors.New("serve needs -interface NAME and no other words"))
	}
	vms, err := loadVMs(file)
	if err != nil {
		return 1, err
	}
	faults, err := sim.LoadFaults(faultFile)
	if err != nil {
		return 1, err
	}
	out := os.Stdout
	if logFile != "" {
		if out, err = os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return 1, err
		}
		defer out.Close()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return 0, sim.New(vms, sim.NewLog(out), faults).Serve(ctx, device)
}

// list is a flag that may stand several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func sandbox(args []string) (int, error) {
	var o sim.SandboxOptions
	var binds list
	rest, err := flags("sandbox", args, func(fs *flag.FlagSet) {
		fs.StringVar(&o.VM, "vm", "", "")
		fs.StringVar(&o.Faults, "faults", "", "")
		fs.StringVar(&o.Log, "log", "", "")
		fs.StringVar(&o.Dir, "dir", "", "")
		fs.DurationVar(&o.Late, "media-late", 0, "")
		fs.Var(&binds, "bind", "")
	})
	if err != nil {
		return 2, err
	}
	for i, b := range binds {
		host, guest, ok := strings.Cut(b, ":")
		if !ok || !strings.HasPrefix(guest, "/") {
			return 2, fmt.Errorf("-bind %s: not HOST:/GUEST", b)
		}
		if host, err = filepath.Abs(host); err != nil {
			return 2, err
		}
		binds[i] = host + ":" + guest
	}
	for _, p := range []*string{&o.VM, &o.Faults, &o.Log} {
		if *p != "" {
			if *p, err = filepath.Abs(*p); err != nil {
				return 2, err
			}
		}
	}
	o.Binds, o.Command = binds, rest
	if len(rest) == 0 {
		o.Command = []string{"sh"}
	}
	return sim.Sandbox(o)
}

func timeline(args []string) (int, error) {
	var out, logFile string
	rest, err := flags("timeline", args, func(fs *flag.FlagSet) {
		fs.StringVar(&out, "o", "", "")
		fs.StringVar(&logFile, "log", "", "")
	})
	if err != nil || len(rest) != 1 || out == "" {
		return 2, errors.Join(err, errors.New("timeline needs -o FILE.svg and one STATUS.json"))
	}
	status, err := os.ReadFile(rest[0])
	if err != nil {
		return 1, err
	}
	var events []sim.Event
	if logFile != "" {
		f, err := os.Open(logFile)
		if err != nil {
			return 1, err
		}
		defer f.Close()
		if events, err = sim.ReadEvents(f); err != nil {
			return 1, fmt.Errorf("%s: %w", logFile, err)
		}
	}
	w, err := os.Create(out)
	if err != nil {
		return 1, err
	}
	return 0, errors.Join(sim.Timeline(w, status, events), w.Close())
}
