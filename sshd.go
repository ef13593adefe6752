package main

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where sshd's configuration is; the second place is that of images whose /etc
// holds only changes.
var sshdConfigs = [...]string{"/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config"}

const (
	sshdDropInDir = "/etc/ssh/sshd_config.d"
	sshdDropIn    = sshdDropInDir + "/10-azprov.conf"
)

// sshdConfig is an sshd_config(5) file as lines. sshd takes the first value of a
// keyword that it meets, included files in their place; Match starts sections
// that hold only for some connections.
type sshdConfig struct {
	path  string
	lines []string
}

// loadSSHD reads the image's sshd_config; nil when there is none.
func (m *machine) loadSSHD() (*sshdConfig, error) {
	for _, p := range sshdConfigs {
		data, err := m.guest.read(p, 1<<20)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return parseSSHD(p, data), nil
	}
	return nil, nil
}

func parseSSHD(p string, data []byte) *sshdConfig {
	return &sshdConfig{p, strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")}
}

// sshdLine splits a line into its keyword, in lower case, and its arguments.
func sshdLine(line string) (keyword, args string) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", ""
	}
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return strings.ToLower(strings.Trim(line, `"`)), ""
	}
	args = strings.TrimLeft(line[i:], " \t")
	if strings.HasPrefix(args, "=") {
		args = strings.TrimLeft(args[1:], " \t")
	}
	return strings.ToLower(strings.Trim(line[:i], `"`)), args
}

// global returns the number of lines before the first Match.
func (c *sshdConfig) global() int {
	for i, l := range c.lines {
		if k, _ := sshdLine(l); k == "match" {
			return i
		}
	}
	return len(c.lines)
}

// find returns the first global line of a keyword, or -1.
func (c *sshdConfig) find(keyword string) int {
	for i, l := range c.lines[:c.global()] {
		if k, _ := sshdLine(l); k == keyword {
			return i
		}
	}
	return -1
}

func (c *sshdConfig) value(keyword string) string {
	if i := c.find(keyword); i >= 0 {
		_, args := sshdLine(c.lines[i])
		return args
	}
	return ""
}

// includes returns the first global line that includes the drop-in folder, or -1.
func (c *sshdConfig) includes() int {
	for i, l := range c.lines[:c.global()] {
		k, args := sshdLine(l)
		if k != "include" {
			continue
		}
		for args != "" {
			var pattern string
			pattern, args = cutField(args)
			pattern = strings.Trim(pattern, `"`)
			if !strings.HasPrefix(pattern, "/") {
				pattern = "/etc/ssh/" + pattern
			}
			if ok, err := path.Match(pattern, sshdDropIn); ok && err == nil {
				return i
			}
		}
	}
	return -1
}

// set makes a keyword's first global value the one given: in place of the first
// one, else before the first Include or Match, else at the end.
func (c *sshdConfig) set(keyword, value string) {
	line := keyword + " " + value
	if i := c.find(strings.ToLower(keyword)); i >= 0 {
		c.lines[i] = line
		return
	}
	at := c.global()
	for i, l := range c.lines[:at] {
		if k, _ := sshdLine(l); k == "include" {
			at = i
			break
		}
	}
	c.lines = append(c.lines[:at:at], append([]string{line}, c.lines[at:]...)...)
}

func (c *sshdConfig) encode() []byte { return []byte(strings.Join(c.lines, "\n") + "\n") }

// mentions says whether a keyword occurs anywhere, comments included: what the
// image's sshd knows.
func (c *sshdConfig) mentions(keyword string) bool {
	return strings.Contains(strings.ToLower(strings.Join(c.lines, "\n")), keyword)
}

// sshdSetting is a keyword with its value.
type sshdSetting struct{ keyword, value string }

// sshdSettings are what the spec and the configuration want of sshd. Passwords
// come by two ways, and the second has two names: older than OpenSSH 8.7 only the
// one with "ChallengeResponse" switches it off, younger ones take both. Where c
// mentions only one of them, that is the one that its sshd is written for.
func (m *machine) sshdSettings(s *spec, c *sshdConfig) []sshdSetting {
	var list []sshdSetting
	if allow, known := s.passwordAuth(); known {
		value := yesNo(allow)
		list = append(list, sshdSetting{"PasswordAuthentication", value})
		older, younger := c.mentions("challengeresponseauthentication"), c.mentions("kbdinteractiveauthentication")
		if younger || !older {
			list = append(list, sshdSetting{"KbdInteractiveAuthentication", value})
		}
		if older || !younger {
			list = append(list, sshdSetting{"ChallengeResponseAuthentication", value})
		}
	}
	if m.cfg.ClientAlive > 0 {
		list = append(list, sshdSetting{"ClientAliveInterval", strconv.Itoa(m.cfg.ClientAlive)})
	}
	return list
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// applySSHD switches password logins of the image's SSH server on or off, as the
// spec says, and sets what the configuration wants; without an opinion nothing is
// touched.
func (m *machine) applySSHD(s *spec) (text string, err error) {
	c, err := m.loadSSHD()
	if err != nil {
		return "", err
	}
	allow, known := s.passwordAuth()
	if c == nil {
		switch {
		case !known:
		case m.hasProgram("dropbear"):
			text, err = m.applyDropbear(allow)
		default:
			text = "no sshd in the image"
		}
		return text, err
	}
	settings := m.sshdSettings(s, c)
	if len(settings) == 0 {
		return "", nil
	}
	e := m.guest.edit()
	if include := c.includes(); include >= 0 && !c.sets(settings, include) {
		m.warnEarlier(settings)
		if err := m.guest.mkdir(sshdDropInDir, 0o755, 0, 0); err != nil {
			return "", err
		}
		text := "# Written by azprov: as this VM was created.\n"
		for _, k := range settings {
			text += k.keyword + " " + k.value + "\n"
		}
		err = e.put(sshdDropIn, []byte(text), rootFile(0o600))
	} else {
		for _, k := range settings {
			c.set(k.keyword, k.value)
		}
		err = e.put(sshdConfigs[0], c.encode(), keepFile(0o600))
	}
	if err != nil {
		return "", err
	}
	m.warnMatch(c, settings)
	changed := e.changes() > 0
	if err := e.commitLater(); err != nil {
		return "", err
	}
	if changed {
		m.reloadSSHD()
	}
	if known {
		text = "password logins " + onOff(allow)
	}
	return text, nil
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// sets says whether one of the first lines sets one of the keywords.
func (c *sshdConfig) sets(settings []sshdSetting, lines int) bool {
	for _, k := range settings {
		if i := c.find(strings.ToLower(k.keyword)); i >= 0 && i < lines {
			return true
		}
	}
	return false
}

// warnEarlier names drop-ins that sshd reads before ours and that set the same.
func (m *machine) warnEarlier(settings []sshdSetting) {
	for _, name := range m.guest.list(sshdDropInDir) {
		if name >= path.Base(sshdDropIn) || !strings.HasSuffix(name, ".conf") {
			continue
		}
		data, err := m.guest.read(path.Join(sshdDropInDir, name), 1<<20)
		if err != nil {
			continue
		}
		c := parseSSHD(name, data)
		for _, k := range settings {
			if c.find(strings.ToLower(k.keyword)) >= 0 {
				m.warn("sshd", "%s/%s is read first and sets %s", sshdDropInDir, oneLine(name, 80), k.keyword)
			}
		}
	}
}

// warnMatch names what sections for some connections set otherwise.
func (m *machine) warnMatch(c *sshdConfig, settings []sshdSetting) {
	for i, l := range c.lines[c.global():] {
		keyword, value := sshdLine(l)
		for _, k := range settings {
			if keyword == strings.ToLower(k.keyword) && !strings.EqualFold(value, k.value) {
				m.warn("sshd", "%s:%d sets %s for the connections of its Match section", c.path, c.global()+i+1, k.keyword)
			}
		}
	}
}

// reloadPause is how long an sshd that was told to reload is left alone: it starts
// over, has no pid file meanwhile, and misses a signal until it has.
const reloadPause = 500 * time.Millisecond

// reloadSSHD tells a running sshd of this root to read its configuration and its
// host keys again.
func (m *machine) reloadSSHD() {
	if m.guest.dir != "/" {
		return
	}
	m.reload.Lock()
	defer m.reload.Unlock()
	time.Sleep(reloadPause - time.Since(m.reloaded))
	data, err := m.guest.read("/run/sshd.pid", 32)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 || sysAttr(m.proc(strconv.Itoa(pid), "comm")) != "sshd" {
		return
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		m.warn("sshd", "sshd (pid %d) was not told to reload: %v", pid, err)
		return
	}
	m.reloaded = time.Now()
}

// lastReload is when sshd was told last; zero if it was not.
func (m *machine) lastReload() time.Time {
	m.reload.Lock()
	defer m.reload.Unlock()
	return m.reloaded
}

// dropbearFiles are the options files of dropbear's start scripts, each with the
// variables that it may use, the first being the standard.
var dropbearFiles = [...]struct {
	path string
	keys []string
}{
	{"/etc/conf.d/dropbear", []string{"DROPBEAR_OPTS"}},
	{"/etc/default/dropbear", []string{"DROPBEAR_EXTRA_ARGS", "DROPBEAR_ARGS"}},
}

// applyDropbear adds or removes -s (no password logins) in dropbear's options file.
func (m *machine) applyDropbear(allow bool) (string, error) {
	file := dropbearFiles[len(dropbearFiles)-1]
	for _, f := range dropbearFiles {
		if m.guest.isFile(f.path) {
			file = f
			break
		}
	}
	old, err := m.guest.read(file.path, 64<<10)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	key := file.keys[0]
	for _, k := range file.keys {
		if strings.Contains(string(old), k+"=") {
			key = k
			break
		}
	}
	if err := m.guest.mkdir(path.Dir(file.path), 0o755, 0, 0); err != nil {
		return "", err
	}
	if err := m.guest.write(file.path, editDropbear(old, key, allow), keepFile(0o644)); err != nil {
		return "", err
	}
	return "dropbear password logins " + onOff(allow), nil
}

// editDropbear returns the file with -s in the variable's last assignment, or without.
func editDropbear(old []byte, key string, allow bool) []byte {
	var lines []string
	if len(old) > 0 {
		lines = strings.Split(strings.TrimSuffix(string(old), "\n"), "\n")
	}
	at, value := -1, ""
	for i, l := range lines {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), key+"="); ok {
			at, value = i, strings.Trim(v, `"'`)
		}
	}
	var words []string
	for _, w := range strings.Fields(value) {
		if w != "-s" {
			words = append(words, w)
		}
	}
	if !allow {
		words = append(words, "-s")
	}
	line := key + `="` + strings.Join(words, " ") + `"`
	switch {
	case at >= 0:
		lines[at] = line
	case !allow:
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}
