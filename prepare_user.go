package main

import (
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// planHistories removes what shells and pagers remember of every account that
// has a home of its own.
func (p *preparation) planHistories() error {
	passwd, err := loadAccounts(p.m.guest, "/etc/passwd", 0o644)
	if err != nil {
		return err
	}
	for i := range passwd.lines {
		f := passwd.fields(i, 7)
		if f == nil || p.refuseHome(passwd, i) != nil || strings.ContainsAny(f[5], "*?[ \t\\") {
			continue
		}
		p.removeFiles(strings.ReplaceAll(historyFiles, "H", f[5]), "history of one user")
	}
	return nil
}

func (p *preparation) removeFiles(patterns, why string) {
	for _, name := range p.m.guest.glob(patterns) {
		p.clean("file", name, why)
	}
}

// refuseHome says why the home of a line of passwd is not its account's own.
func (p *preparation) refuseHome(passwd *accountFile, i int) error {
	f := passwd.fields(i, 7)
	home := path.Clean("/" + f[5])
	if strings.Count(home, "/") < 2 {
		return errors.New("it is a directory of the system")
	}
	rel, err := p.m.guest.resolve(home)
	if err != nil {
		return err
	}
	for j := range passwd.lines {
		o := passwd.fields(j, 7)
		if j == i || o == nil || o[0] == f[0] {
			continue
		}
		if other, err := p.m.guest.resolve(path.Clean("/" + o[5])); err != nil || other == rel || strings.HasPrefix(other, rel+"/") {
			return errorf("the account %s lives there too", oneLine(o[0], 40))
		}
	}
	info, err := p.m.guest.stat(home)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || strconv.Itoa(int(st.Uid)) != f[2] {
		return errors.New("it does not belong to the account")
	}
	return nil
}

// planAccounts removes the account that is named, whose group is gid, and locks
// root if root.lock says so: in the account files and in their backups, which
// hold hashes too.
func (p *preparation) planAccounts(gid string) error {
	for _, suffix := range []string{"-", ""} {
		files, err := loadAccountFiles(p.m.guest, suffix)
		if err != nil {
			return err
		}
		if p.user != "" {
			files.removeUser(p.user, gid)
		}
		if p.m.cfg.RootLock {
			(&userEdit{m: p.m, files: files}).lockRoot()
		}
		for _, f := range []*accountFile{files.subuid, files.subgid, files.gshadow, files.group, files.shadow, files.passwd} {
			if !f.changed {
				continue
			}
			old, err := p.m.guest.read(f.path, maxAccountFile)
			if err != nil {
				return err
			}
			p.edit(f.path, old, f.encode(), "accounts")
		}
	}
	return nil
}

// removeUser takes an account out of the files, and the group of its name if
// that is its own: of the number gid, and no one else's.
func (a *accountFiles) removeUser(user, gid string) {
	for _, f := range []*accountFile{a.passwd, a.shadow, a.subuid, a.subgid} {
		f.dropLine(user)
	}
	if i := a.group.find(user); i >= 0 && gid != "" {
		f := a.group.fields(i, 4)
		shared := f == nil || f[2] != gid || strings.Trim(f[3], ",") != "" && f[3] != user
		for i := range a.passwd.lines {
			if l := a.passwd.fields(i, 4); l != nil && l[3] == gid {
				shared = true
			}
		}
		if !shared {
			a.group.dropLine(user)
			a.gshadow.dropLine(user)
		}
	}
	for _, f := range []*accountFile{a.group, a.gshadow} {
		for i := range f.lines {
			l := f.fields(i, 4)
			if l == nil {
				continue
			}
			l[3] = withoutMember(l[3], user)
			if f == a.gshadow {
				l[2] = withoutMember(l[2], user)
			}
			f.set(i, l)
		}
	}
}

func withoutMember(list, user string) string {
	if !strings.Contains(list, user) {
		return list
	}
	return strings.Join(slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return s == user }), ",")
}

// planHome removes what belongs to the account outside of the account files and
// returns the number of its group; "" when there is no such account.
func (p *preparation) planHome() (gid string, err error) {
	if p.user == "" {
		return "", nil
	}
	if err := validUserName(p.user); err != nil {
		return "", failure("remove account", oneLine(p.user, 40), err)
	}
	passwd, err := loadAccounts(p.m.guest, "/etc/passwd", 0o644)
	if err != nil {
		return "", err
	}
	if i := passwd.find(p.user); i < 0 {
		p.note("/etc/passwd", "there is no account "+p.user)
	} else {
		f := passwd.fields(i, 7)
		if f == nil {
			return "", failure("read", "/etc/passwd", errorf("the line of %s is broken", p.user))
		}
		uid, err := strconv.Atoi(f[2])
		low := loadSettings(p.m.guest, "/etc/login.defs").number("UID_MIN", 1000)
		if err != nil || uid == 0 || (uid < low || uid == 65534) && !p.m.cfg.UserSystem {
			return "", failureHint("remove account", p.user, errors.New("it is a system account"), "user.system=yes removes it all the same, but for root")
		}
		gid = f[3]
		if err := p.refuseHome(passwd, i); err == nil {
			p.remove(path.Clean("/"+f[5]), "home of the removed account")
		} else if !errors.Is(err, os.ErrNotExist) {
			p.note(f[5], "this home is left alone: "+err.Error())
		}
	}
	p.removeFiles(strings.ReplaceAll(userFiles, "U", p.user), "of the removed account")
	return gid, nil
}
