package main

import (
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is every setting of a run. Its keys are the same words in the
// configuration file, on the kernel command line (azprov.KEY=VALUE) and as
// flags (-KEY VALUE): keys lists them.
type config struct {
	Media          string        // device, image, directory or ovf-env.xml; "" = find it
	MediaWait      time.Duration // how long to wait for a late DVD
	MediaEject     bool
	Interface      string // "" = choose
	Deadline       time.Duration
	NetworkWait    time.Duration // DHCP deadline
	HostnameWait   time.Duration // how long the lease waits for the host name
	HostnameFollow bool          // take a host name that the metadata service has changed
	Names          string        // stable, imds, keep
	Interfaces     string        // primary, all
	Addresses      bool          // set the further addresses that the metadata service tells
	IPv6           string        // auto, yes, no
	Network        string        // keep, release
	NetworkWrite   []string      // files for who comes next: auto, or their kinds
	WireServer     string        // "" = option 245, else 168.63.129.16
	IMDS           bool          // ask the metadata service
	IMDSWait       time.Duration // how long Ready waits for it when there is a medium
	IMDSDeadline   time.Duration // how long it is asked when there is none
	ProvisionData  bool          // ask the wire server as the platform's draft has it
	UserData       bool          // user data stand in for custom data
	CustomDataMust bool          // custom data that Azure has promised and that are nowhere fail the VM
	Health         string        // xml, json
	UserGroups     []string
	UserShell      string
	UserSudo       bool
	UserSystem     bool // a system account may be given the password
	PasswordRounds int
	RootLock       bool
	HostKeys       []string // auto, keep or regenerate; kinds
	ClientAlive    int      // seconds; 0 = as the image has it
	Certificates   string   // none, keep
	Hosts          bool
	ResolvConf     bool
	CustomData     string // store, run
	CustomDataWhen string // after, before
	CustomDataTime time.Duration
	KVP            string // pool file directory in the guest; "" = none
	ResourceDisk   string // auto, none or a device
	ResourceMount  string
	ResourceFS     string // ext4, none
	ResourceOpts   string // of the mount
	ResourceNVMe   string // first, none
	ResourceRedo   string // damaged, none
	ResourceNeeded bool
	ResourceFstab  bool
	Swap           int64 // bytes
	Modules        []string
	EntropyCredit  bool   // tell the kernel that it can count on what is mixed in
	EntropySeed    string // file of the guest; "" = none
	Console        string // kernel, serial
	ConsoleLogin   bool
	Rescue         string        // what PID 1 does when there is nothing to go on with
	RootWait       time.Duration // how long PID 1 waits for root=
	InitCommand    string        // what PID 1 starts when there is no root=
	Force          bool          // run although nothing says that this is Azure
	PrepareArgs    []string      // more kernel command line words for azprov prepare
	Skip           []string
	Only           []string // "" = all; else these and what they need
}

// option is one key: its default, the help line, and how its value is set.
type option struct {
	name, value, help string
	set               func(string) error
}

// asksAlways says whether the metadata service is asked at every boot.
func (c *config) asksAlways() bool {
	return c.IMDS && (c.HostnameFollow || c.Addresses || c.Names == namesIMDS)
}

// options lists every key, in the order of the manual.
func (c *config) options() []option {
	return []option{
		{"media", "", "provisioning medium: device, image file, directory or ovf-env.xml", setText(&c.Media)},
		{"media.wait", "30s", "how long to wait for a late medium", setDuration(&c.MediaWait)},
		{"media.eject", "no", "eject the DVD after Ready is acknowledged", setBool(&c.MediaEject)},
		{"interface", "", "network interface to use", setText(&c.Interface)},
		{"deadline", "20m", "how long to try until Ready is acknowledged", setDuration(&c.Deadline)},
		{"network.wait", "5m", "how long to wait for a link and a DHCP lease", setDuration(&c.NetworkWait)},
		{"hostname.wait", "1s", "how long DHCP waits for the host name on the medium", setDuration(&c.HostnameWait)},
		{"hostname.follow", "no", "take a host name that the metadata service has changed, at every boot", setBool(&c.HostnameFollow)},
		{"names", namesStable, "interface names: eth0 is the primary one, others by their place (stable) or as in IMDS (imds); or keep", setOneOf(&c.Names, namesStable, namesIMDS, namesKeep)},
		{"interfaces", "primary", "configure the primary interface only, or all", setOneOf(&c.Interfaces, "primary", "all")},
		{"imds.addresses", "no", "set the further IPv4 addresses that the metadata service tells", setBool(&c.Addresses)},
		{"ipv6", "auto", "DHCPv6 where the metadata service or a router says so (auto), on all configured interfaces (yes), or no", setOneOf(&c.IPv6, "auto", "yes", "no")},
		{"network", "keep", "leave the network configured, or release it at the end", setOneOf(&c.Network, "keep", "release")},
		{"network.write", "auto", "files for who configures the network next: " + strings.Join(writerNames(), ", ") + ", auto, none", setWriters(&c.NetworkWrite)},
		{"wireserver", "", "wire server address instead of DHCP option 245 or 168.63.129.16", setText(&c.WireServer)},
		{"imds", "yes", "ask the metadata service", setBool(&c.IMDS)},
		{"imds.wait", "700ms", "how long Ready waits for the metadata service when there is a DVD", setDuration(&c.IMDSWait)},
		{"imds.deadline", "5m", "how long to ask the metadata service when there is no DVD", setDuration(&c.IMDSDeadline)},
		{"provisiondata", "no", "ask the wire server for provisioning data (a draft of the platform)", setBool(&c.ProvisionData)},
		{"userdata", "yes", "take user data as custom data where there are none", setBool(&c.UserData)},
		{"customdata.required", "no", "fail if the custom data that the metadata service announces are not there", setBool(&c.CustomDataMust)},
		{"health", "xml", "health endpoint: xml, or json with xml as fallback", setOneOf(&c.Health, "xml", "json")},
		{"user.groups", "", "more groups of the user, separated by commas", setList(&c.UserGroups)},
		{"user.shell", "", "login shell of a new user instead of the image's default", setText(&c.UserShell)},
		{"user.sudo", "yes", "let the user become root by sudo or doas", setBool(&c.UserSudo)},
		{"user.system", "no", "allow the user name to be a system account", setBool(&c.UserSystem)},
		{"password.rounds", "5000", "rounds of SHA-512-crypt, 1000 to 10000000", setInt(&c.PasswordRounds, 1000, 10000000)},
		{"root.lock", "no", "lock root's password", setBool(&c.RootLock)},
		{"hostkeys", "auto", "SSH host keys: auto, keep or regenerate, and which of ed25519, ecdsa, rsa", setHostKeys(&c.HostKeys)},
		{"sshd.clientalive", "0", "ClientAliveInterval of sshd in seconds; 0 leaves it as it is", setInt(&c.ClientAlive, 0, 86400)},
		{"certificates", "none", "leave the platform's certificates and their keys in /var/lib/waagent: none, keep", setOneOf(&c.Certificates, "none", "keep")},
		{"hosts", "yes", "keep the host name in /etc/hosts", setBool(&c.Hosts)},
		{"resolv.conf", "yes", "write /etc/resolv.conf from the lease", setBool(&c.ResolvConf)},
		{"customdata", "store", "what to do with custom data: store, or run it if it is a script", setOneOf(&c.CustomData, "store", "run")},
		{"customdata.when", "after", "run custom data before or after Ready", setOneOf(&c.CustomDataWhen, "after", "before")},
		{"customdata.timeout", "1h", "how long custom data may run", setDuration(&c.CustomDataTime)},
		{"kvp", "/var/lib/hyperv", "directory of the Hyper-V KVP pool files; none to write none", setText(&c.KVP)},
		{"resourcedisk", "auto", "temporary disk: auto, none, or a device to use", setDisk(&c.ResourceDisk)},
		{"resourcedisk.mount", "/mnt/resource", "where it is mounted", setMountPoint(&c.ResourceMount)},
		{"resourcedisk.fs", "ext4", "what an empty one is formatted with: ext4, or none to format nothing", setOneOf(&c.ResourceFS, "ext4", "none")},
		{"resourcedisk.options", "", "mount options, separated by commas", setText(&c.ResourceOpts)},
		{"resourcedisk.nvme", "first", "local NVMe disks: use the first where there is no other, or none", setOneOf(&c.ResourceNVMe, "first", "none")},
		{"resourcedisk.reformat", "none", "damaged: format anew what azprov formatted and can't mount", setOneOf(&c.ResourceRedo, "none", "damaged")},
		{"resourcedisk.required", "no", "provisioning fails without it", setBool(&c.ResourceNeeded)},
		{"resourcedisk.fstab", "no", "keep a line for it in /etc/fstab", setBool(&c.ResourceFstab)},
		{"swap", "0", "size of a swap file on it, with K, M, G or T", setSize(&c.Swap)},
		{"modules", "", "more kernel modules for azprov init to load, separated by commas", setList(&c.Modules)},
		{"entropy.credit", "no", "let the kernel count on random bytes of the host and on a saved seed", setBool(&c.EntropyCredit)},
		{"entropy.seed", "", "file that keeps a random seed from boot to boot", setText(&c.EntropySeed)},
		{"console", "kernel", "where /dev/console leads: as the kernel has it, or serial", setOneOf(&c.Console, "kernel", "serial")},
		{"console.login", "no", "let the image's init start a login on the serial port", setBool(&c.ConsoleLogin)},
		{"rescue", "reboot", "what azprov init does without a root file system: shell, reboot, poweroff, halt", setOneOf(&c.Rescue, "shell", "reboot", "poweroff", "halt")},
		{"root.wait", "1m", "how long azprov init waits for the root file system without rootwait", setDuration(&c.RootWait)},
		{"init.command", "", "what azprov init starts when there is no root=, split at blanks", setText(&c.InitCommand)},
		{"force", "no", "run although nothing says that this is an Azure VM; prepare the running system", setBool(&c.Force)},
		{"prepare.args", "", "more words that azprov prepare puts on the kernel command line, such as net.ifnames=0; split at blanks", setWords(&c.PrepareArgs)},
		{"skip", "", "steps to leave out, separated by commas", setList(&c.Skip)},
		{"only", "", "run only these steps and what they need, separated by commas", setList(&c.Only)},
	}
}

// defaultConfig returns the settings with every key at its default.
func defaultConfig() *config {
	c := &config{}
	for _, o := range c.options() {
		if err := o.set(o.value); err != nil {
			panic("default of " + o.name + ": " + err.Error())
		}
	}
	return c
}

// configError names where a bad setting stands.
type configError struct {
	Where string // "file:line", "kernel command line", "flag"
	Key   string
	Err   error
}

func (e *configError) Error() string { return e.Where + ": " + e.Key + ": " + e.Err.Error() }
func (e *configError) Unwrap() error { return e.Err }

var errUnknownKey = errors.New("unknown key; azprov help lists them")

// set gives one key its value.
func (c *config) set(where, key, value string) error {
	opts := c.options()
	i := slices.IndexFunc(opts, func(o option) bool { return o.name == key })
	if i < 0 {
		return &configError{where, key, errUnknownKey}
	}
	if err := opts[i].set(value); err != nil {
		return &configError{where, key, err}
	}
	return nil
}

const maxConfig = 64 << 10

// readFile reads settings of the form "key = value", a line each; blank lines and
// lines that start with # are skipped. The file is at most 64 KiB.
func (c *config) readFile(name string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return failure("read configuration", name, err)
	}
	if len(data) > maxConfig {
		return failure("read configuration", name, errors.New("larger than 64 KiB"))
	}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		where := sprintf("%s:%d", name, i+1)
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return &configError{where, line, errors.New("no = in the line")}
		}
		if err := c.set(where, strings.TrimSpace(key), strings.TrimSpace(value)); err != nil {
			return err
		}
	}
	return nil
}

// readCommandLine takes every azprov.KEY=VALUE of a kernel command line. A value
// may be quoted as the kernel allows: azprov.key="a b".
func (c *config) readCommandLine(line string) error {
	for _, word := range splitCommandLine(line) {
		rest, ok := strings.CutPrefix(word, "azprov.")
		if !ok {
			continue
		}
		key, value, ok := strings.Cut(rest, "=")
		if !ok {
			return &configError{"kernel command line", key, errors.New("no value")}
		}
		if err := c.set("kernel command line", key, value); err != nil {
			return err
		}
	}
	return nil
}

// splitCommandLine splits at blanks outside of double quotes and drops the
// quotes, as the kernel's next_arg (lib/cmdline.c) does.
func splitCommandLine(line string) []string {
	var words []string
	var word strings.Builder
	quoted, open := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, open = !quoted, true
		case strings.ContainsRune(" \t\n\x00", r) && !quoted:
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

// loadConfig is defaults, then the file (of the guest if name is empty; a named
// file must exist), then the kernel command line.
func loadConfig(g *guest, name, procfs string) (*config, error) {
	c := defaultConfig()
	if name != "" {
		f, err := os.Open(name)
		if err != nil {
			return nil, failure("open configuration", name, err)
		}
		defer f.Close()
		if err := c.readFile(name, f); err != nil {
			return nil, err
		}
	} else if data, err := g.read("/etc/azprov.conf", maxConfig); err == nil {
		if err := c.readFile("/etc/azprov.conf", strings.NewReader(string(data))); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if data, err := os.ReadFile(procfs + "/cmdline"); err == nil {
		if err := c.readCommandLine(string(data)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func setText(p *string) func(string) error {
	return func(s string) error { *p = s; return nil }
}

func setList(p *[]string) func(string) error {
	return func(s string) error {
		*p = nil
		for e := range strings.SplitSeq(s, ",") {
			if e = strings.TrimSpace(e); e != "" {
				*p = append(*p, e)
			}
		}
		return nil
	}
}

// setWords takes words of a kernel command line. What a shell or a boot loader
// would take apart is refused.
func setWords(p *[]string) func(string) error {
	return func(s string) error {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune("\"'`$\\;#&|{}()<>", r) }) {
			return errorf("%q holds what a shell or boot loader would not leave as it is", s)
		}
		*p = strings.Fields(s)
		return nil
	}
}

func setOneOf(p *string, values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return errorf("%q is none of %s", s, strings.Join(values, ", "))
		}
		*p = s
		return nil
	}
}

// parseBool takes true, 1, on, yes and false, 0, off, no in any case.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "1", "on", "yes":
		return true, nil
	case "false", "0", "off", "no":
		return false, nil
	}
	return false, errorf("%q is neither yes nor no", s)
}

func setBool(p *bool) func(string) error {
	return func(s string) error {
		v, err := parseBool(s)
		if err == nil {
			*p = v
		}
		return err
	}
}

func setInt(p *int, low, high int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high {
			return errorf("%q is no number from %d to %d", s, low, high)
		}
		*p = n
		return nil
	}
}

func setDuration(p *time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 || d > 365*24*time.Hour {
			return errorf("%q is no duration such as 500ms, 30s or 20m", s)
		}
		*p = d
		return nil
	}
}

// setDisk takes auto, none and paths below /dev.
func setDisk(p *string) func(string) error {
	return func(s string) error {
		if s != "auto" && s != "none" && (!strings.HasPrefix(s, "/dev/") || path.Clean(s) != s) {
			return errorf("%q is neither auto, none nor a path below /dev", s)
		}
		*p = s
		return nil
	}
}

func setMountPoint(p *string) func(string) error {
	return func(s string) error {
		if len(s) < 2 || s[0] != '/' || path.Clean(s) != s || strings.ContainsAny(s, " \t\n\\") {
			return errorf("%q is no directory to mount on", s)
		}
		*p = s
		return nil
	}
}

// setSize takes bytes, or with K, M, G or T powers of 1024.
func setSize(p *int64) func(string) error {
	return func(s string) error {
		digits := strings.TrimRight(s, "KMGT")
		shift := 0
		if len(s) == len(digits)+1 {
			shift = 10 * (1 + strings.IndexByte("KMGT", s[len(s)-1]))
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > 1<<50>>shift || len(s) > len(digits)+1 {
			return errorf("%q is no size such as 512M or 2G", s)
		}
		*p = n << shift
		return nil
	}
}
