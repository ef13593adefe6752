package main

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// account is the user that the VM was created with, as it stands in the guest.
type account struct {
	Name        string
	UID, GID    int
	Home, Shell string
	Created     bool
	HasPassword bool
}

// validUserName says why a name can't be a user's. The platform allows less.
func validUserName(name string) error {
	if name == "" || len(name) > 32 {
		return errors.New("a user name has 1 to 32 characters")
	}
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '.' || c == '-')) {
			return errors.New("a user name starts with a letter or _ and holds only letters, digits, dot, hyphen and _")
		}
	}
	return nil
}

// accountFiles are the files of an edit, in the order in which they are
// replaced: a crash between leaves a user without password, never a password
// without user.
type accountFiles struct{ gshadow, group, passwd, shadow, subuid, subgid *accountFile }

func (a *accountFiles) list() []*accountFile {
	return []*accountFile{a.group, a.gshadow, a.passwd, a.shadow, a.subuid, a.subgid}
}

// loadAccountFiles reads the account files, or with the suffix "-" their backups.
func loadAccountFiles(g *guest, suffix string) (*accountFiles, error) {
	a := &accountFiles{}
	for _, f := range []struct {
		p    **accountFile
		name string
		mode os.FileMode
	}{{&a.group, "/etc/group", 0o644}, {&a.gshadow, "/etc/gshadow", 0o600}, {&a.passwd, "/etc/passwd", 0o644},
		{&a.shadow, "/etc/shadow", 0o600}, {&a.subuid, "/etc/subuid", 0o644}, {&a.subgid, "/etc/subgid", 0o644}} {
		var err error
		if *f.p, err = loadAccounts(g, f.name+suffix, f.mode); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// applyUser makes or updates the account of a spec: passwd, shadow, groups,
// subordinate ids, home, password, sudo or doas, root's lock. The summary is
// for the console. What is as it should be is left alone.
func (m *machine) applyUser(_ context.Context, s *spec) (*account, string, error) {
	if err := validUserName(s.UserName); err != nil {
		return nil, "", failure("make user", "UserName", err)
	}
	if err := m.guest.mkdir("/etc", 0o755, 0, 0); err != nil {
		return nil, "", err
	}
	fresh := m.hashMeanwhile(s.Password)
	unlock, err := lockAccounts(m.guest, []string{"group", "gshadow", "passwd", "shadow", "subuid", "subgid"})
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	files, err := loadAccountFiles(m.guest, "")
	if err != nil {
		return nil, "", err
	}
	u := &userEdit{m: m, files: files, defs: loadSettings(m.guest, "/etc/login.defs"), useradd: loadSettings(m.guest, "/etc/default/useradd"), fresh: fresh}
	a, err := u.account(s.UserName)
	if err != nil {
		return nil, "", err
	}
	// The home is made meanwhile: it belongs to the user only once it is whole.
	home := make(chan error, 1)
	go func() { home <- m.makeHome(a, u.homeMode(), u.skeleton()) }()
	groups, how, err := u.commit(a, s.Password)
	if err := errors.Join(err, <-home); err != nil {
		return nil, "", err
	}
	summary := sprintf("%s uid %d", a.Name, a.UID)
	if !a.Created {
		summary += ", existed"
	}
	if len(s.Password) > 0 && a.HasPassword {
		summary += ", password"
	} else {
		summary += ", no password"
	}
	if len(groups) > 0 {
		summary += ", groups " + strings.Join(groups, " ")
	}
	return a, joinTexts(summary, how), nil
}

// commit fills in password and groups, and replaces the files that have changed.
func (u *userEdit) commit(a *account, password secret) (groups []string, how string, err error) {
	if err := u.password(a, password); err != nil {
		return nil, "", err
	}
	groups = u.groups(a)
	if u.m.cfg.RootLock {
		u.lockRoot()
	}
	e := u.m.guest.edit()
	for _, f := range u.files.list() {
		if !f.changed {
			continue
		}
		if err := u.m.backUp(e, f.path); err != nil {
			return nil, "", err
		}
		if err := e.put(f.path, f.encode(), keepFile(f.mode)); err != nil {
			return nil, "", err
		}
	}
	if u.m.cfg.UserSudo {
		if how, err = u.m.allowRoot(e, a); err != nil {
			return nil, "", err
		}
	}
	return groups, how, e.commitLater()
}

// backUp keeps the old content as FILE- where the image has such a file.
func (m *machine) backUp(e *edit, p string) error {
	if !m.guest.isFile(p + "-") {
		return nil
	}
	data, err := m.guest.read(p, maxAccountFile)
	if err != nil {
		return err
	}
	return e.put(p+"-", data, keepFile(0o600))
}

// userEdit is a change of the account files under way.
type userEdit struct {
	m             *machine
	files         *accountFiles
	defs, useradd settings
	fresh         <-chan hashed // the password's hash, when it is done
}

// hashed is a password's new hash.
type hashed struct {
	hash string
	err  error
}

// hashMeanwhile hashes a password, the dearest computation of a run, while the
// files are read.
func (m *machine) hashMeanwhile(password secret) <-chan hashed {
	ch := make(chan hashed, 1)
	go func() {
		var h hashed
		if len(password) > 0 {
			h.hash, h.err = hashPassword(password, m.cfg.PasswordRounds)
		}
		ch <- h
	}()
	return ch
}

// account finds the user's line or adds one, with its own group, shadow line and
// subordinate ids, as useradd would.
func (u *userEdit) account(name string) (*account, error) {
	uidMin := u.defs.number("UID_MIN", 1000)
	if i := u.files.passwd.find(name); i >= 0 {
		f := u.files.passwd.fields(i, 7)
		if f == nil {
			return nil, failure("read", "/etc/passwd", errorf("the line of %s is broken", name))
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 != nil || err2 != nil || uid < 0 || gid < 0 {
			return nil, failure("read", "/etc/passwd", errorf("the ids of %s are broken", name))
		}
		if (uid < uidMin || uid == 65534) && !u.m.cfg.UserSystem {
			return nil, failureHint("use account", name, errors.New("it is a system account"), "choose another name, or set user.system=yes")
		}
		return &account{Name: name, UID: uid, GID: gid, Home: path.Clean("/" + f[5]), Shell: f[6], HasPassword: u.hasPassword(name)}, nil
	}
	uid, err := newID(u.files.passwd.ids(2), uidMin, u.defs.number("UID_MAX", 60000))
	if err != nil {
		return nil, failure("make user", name, err)
	}
	gid, err := u.primaryGroup(name, uid)
	if err != nil {
		return nil, err
	}
	base := u.useradd["HOME"]
	if base == "" {
		base = "/home"
	}
	a := &account{Name: name, UID: uid, GID: gid, Home: path.Join("/", base, name), Shell: u.shell(), Created: true}
	password := "x"
	if !u.files.shadow.exists {
		password = "*"
	}
	u.files.passwd.add(name, password, strconv.Itoa(uid), strconv.Itoa(gid), "", a.Home, a.Shell)
	if u.files.shadow.exists && u.files.shadow.find(name) < 0 {
		u.files.shadow.add(name, "*", u.today(), u.defs["PASS_MIN_DAYS"], u.defs["PASS_MAX_DAYS"], u.defs["PASS_WARN_AGE"], "", "", "")
	}
	for _, sub := range []struct {
		f    *accountFile
		kind string
	}{{u.files.subuid, "SUB_UID"}, {u.files.subgid, "SUB_GID"}} {
		count := u.defs.number(sub.kind+"_COUNT", 65536)
		if !sub.f.exists || count == 0 || sub.f.find(name) >= 0 {
			continue
		}
		start, free := sub.f.newSubRange(u.defs.number(sub.kind+"_MIN", 100000), u.defs.number(sub.kind+"_MAX", 600100000), count)
		if !free {
			u.m.warn("user", "%s has no free range for %s", sub.f.path, name)
			continue
		}
		sub.f.add(name, strconv.Itoa(start), strconv.Itoa(count))
	}
	return a, nil
}

// primaryGroup is a new group of the user's name, with the user's number if that
// is free; one of that name that exists is used; without USERGROUPS_ENAB it is
// useradd's GROUP.
func (u *userEdit) primaryGroup(name string, uid int) (int, error) {
	if strings.EqualFold(u.defs["USERGROUPS_ENAB"], "no") {
		return u.useradd.number("GROUP", 100), nil
	}
	if i := u.files.group.find(name); i >= 0 {
		if f := u.files.group.fields(i, 3); f != nil {
			if gid, err := strconv.Atoi(f[2]); err == nil && gid >= 0 {
				return gid, nil
			}
		}
		return 0, failure("read", "/etc/group", errorf("the line of %s is broken", name))
	}
	used := u.files.group.ids(2)
	gid := uid
	if low, high := u.defs.number("GID_MIN", 1000), u.defs.number("GID_MAX", 60000); used[gid] || gid < low || gid > high {
		var err error
		if gid, err = newID(used, low, high); err != nil {
			return 0, failure("make group", name, err)
		}
	}
	u.files.group.add(name, "x", strconv.Itoa(gid), "")
	if u.files.gshadow.exists && u.files.gshadow.find(name) < 0 {
		u.files.gshadow.add(name, "!", "", "")
	}
	return gid, nil
}

func (u *userEdit) shell() string {
	for _, sh := range []string{u.m.cfg.UserShell, u.useradd["SHELL"], "/bin/bash", "/bin/sh"} {
		if sh == "" || strings.ContainsAny(sh, ":\n") {
			continue
		}
		if u.m.guest.isExecutable(sh) {
			return sh
		}
		if sh == u.m.cfg.UserShell {
			u.m.warn("user", "the shell %s is not in the image", oneLine(sh, 100))
		}
	}
	return "/bin/sh"
}

// today is the date as shadow(5) counts it.
func (u *userEdit) today() string {
	return strconv.FormatInt(u.m.now().Unix()/int64(24*time.Hour/time.Second), 10)
}

func (u *userEdit) hasPassword(name string) bool {
	hash := u.hash(name)
	return hash != "" && hash[0] != '!' && hash[0] != '*' && hash != "x"
}

// hash is the account's password field: that of shadow, else that of passwd.
func (u *userEdit) hash(name string) string {
	for _, f := range []*accountFile{u.files.shadow, u.files.passwd} {
		if i := f.find(name); i >= 0 {
			if l := f.fields(i, 2); l != nil && l[1] != "x" {
				return l[1]
			}
		}
	}
	return ""
}

// password sets the hash of a password; without one an empty field is closed and
// any other kept. A hash that is of this password already stays.
func (u *userEdit) password(a *account, password secret) error {
	old := u.hash(a.Name)
	hash := old
	switch {
	case len(password) == 0 || wasScrubbed(password):
		if old == "" {
			hash = "*"
		}
	case alreadyHashed(password):
		hash = string(password)
	case !verifyPassword(password, old):
		h := <-u.fresh
		if h.err != nil {
			return h.err
		}
		hash = h.hash
	}
	a.HasPassword = hash[0] != '!' && hash[0] != '*'
	if hash == old {
		return nil
	}
	f := u.files.passwd
	if u.files.shadow.exists {
		f = u.files.shadow
		if f.find(a.Name) < 0 {
			f.add(a.Name, "*", u.today(), u.defs["PASS_MIN_DAYS"], u.defs["PASS_MAX_DAYS"], u.defs["PASS_WARN_AGE"], "", "", "")
			p := u.files.passwd
			line := p.fields(p.find(a.Name), 7)
			line[1] = "x"
			p.set(p.find(a.Name), line)
		}
	}
	i := f.find(a.Name)
	line := f.fields(i, 2)
	line[1] = hash
	if f == u.files.shadow && len(line) > 2 {
		line[2] = u.today()
	}
	f.set(i, line)
	return nil
}

// groups adds the user to the configured groups and to the first of sudo and
// wheel; it returns those that it was added to.
func (u *userEdit) groups(a *account) []string {
	want := slices.Clone(u.m.cfg.UserGroups)
	if u.m.cfg.UserSudo {
		for _, g := range []string{"sudo", "wheel"} {
			if u.files.group.find(g) >= 0 {
				want = append(want, g)
				break
			}
		}
	}
	var added []string
	for _, g := range want {
		i := -1
		if g != "" && !strings.ContainsAny(g, ":\n") {
			i = u.files.group.find(g)
		}
		if i < 0 || u.files.group.fields(i, 4) == nil {
			u.m.warn("user", "the group %s is not in the image", oneLine(g, 40))
			continue
		}
		if slices.Contains(added, g) {
			continue
		}
		added = append(added, g)
		for _, f := range []*accountFile{u.files.group, u.files.gshadow} {
			if i := f.find(g); i >= 0 {
				if line := f.fields(i, 4); line != nil && !slices.Contains(strings.Split(line[3], ","), a.Name) {
					line[3] = strings.TrimPrefix(line[3]+","+a.Name, ",")
					f.set(i, line)
				}
			}
		}
	}
	return added
}

// lockRoot closes root's password; keys are not touched.
func (u *userEdit) lockRoot() {
	f := u.files.shadow
	if !f.exists {
		f = u.files.passwd
	}
	if i := f.find("root"); i >= 0 {
		if line := f.fields(i, 2); line != nil && line[1] != "x" && !strings.HasPrefix(line[1], "!") && line[1] != "*" {
			line[1] = "!" + line[1]
			f.set(i, line)
		}
	}
}

func (u *userEdit) homeMode() os.FileMode {
	umask := u.defs.number("UMASK", 0o22)
	return os.FileMode(u.defs.number("HOME_MODE", 0o777&^umask)) & 0o777
}

func (u *userEdit) skeleton() string {
	if s := u.useradd["SKEL"]; s != "" {
		return s
	}
	return "/etc/skel"
}
