package main

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The values of the key names.
const (
	namesStable = "stable" // eth0 is the primary interface, the others follow by their place on the bus
	namesIMDS   = "imds"   // the others follow in the order of the instance metadata
	namesKeep   = "keep"
)

// interimName starts the names that interfaces have while others take theirs.
const interimName = "azp"

// kernelNamed says whether nobody but the kernel, or an azprov that was cut off,
// has named an interface: udev's names and an administrator's are not touched.
func kernelNamed(name string) bool {
	number, ok := strings.CutPrefix(name, "eth")
	if !ok {
		number, ok = strings.CutPrefix(name, interimName)
	}
	_, err := strconv.ParseUint(number, 10, 16)
	return ok && err == nil
}

// renaming is one step of giving names.
type renaming struct {
	link *link
	name string
}

// planNames says which renames, in their order, give the ordered interfaces the
// names eth0, eth1, ... An interface that is up without azprov's doing is in
// use: it keeps its name, and so do those that someone has named; they still
// count. A name that is taken is passed over.
func planNames(all, ordered []*link) []renaming {
	movable := func(l *link) bool { return kernelNamed(l.Name) && (!l.up() || l.Raised) }
	taken := map[string]bool{}
	for _, l := range all {
		if !slices.ContainsFunc(ordered, func(o *link) bool { return o.Index == l.Index && movable(o) }) {
			taken[l.Name] = true
		}
	}
	var moves []renaming
	number := 0
	for _, l := range ordered {
		if movable(l) {
			for taken["eth"+strconv.Itoa(number)] {
				number++
			}
			if name := "eth" + strconv.Itoa(number); name != l.Name {
				moves = append(moves, renaming{l, name})
			}
		}
		number++
	}
	// Who holds a name that another is to get steps aside first.
	var aside []renaming
	for _, mv := range moves {
		if slices.ContainsFunc(moves, func(o renaming) bool { return o.name == mv.link.Name }) {
			aside = append(aside, renaming{mv.link, interimName + strconv.Itoa(mv.link.Index)})
		}
	}
	return append(aside, moves...)
}

// nameLinks gives the ordered interfaces their names. What could not be renamed
// is said and keeps the name that it has.
func (m *machine) nameLinks(r *rtnl, all, ordered []*link) {
	if m.cfg.Names == namesKeep || m.cfg.Interface != "" {
		return
	}
	for _, mv := range planNames(all, ordered) {
		was := mv.link.Name
		if err := r.setName(mv.link, mv.name); err != nil {
			m.warn("link", "%v", err)
			continue
		}
		if !strings.HasPrefix(mv.name, interimName) {
			m.log.note("link", mv.link.MAC.String()+" is named "+mv.name+", was "+was)
		}
	}
}

// nameBeforeUp names a candidate that is alone, or those whose order an earlier
// boot has left. Otherwise which one is eth0 shows only when DHCP has answered.
func (m *machine) nameBeforeUp(r *rtnl, all, list []*link) {
	order := m.remembered(orderFile)
	if len(list) == 1 || len(list) > 1 && len(order) > 0 && slices.ContainsFunc(list, func(l *link) bool { return l.MAC.String() == order[0] }) {
		m.nameLinks(r, all, orderBy(list, order))
	}
}

// orderBy returns the interfaces with those first whose MAC addresses stand in
// order, the rest as they were.
func orderBy(list []*link, order []string) []*link {
	ordered := slices.Clone(list)
	rank := func(l *link) int {
		if i := slices.Index(order, l.MAC.String()); i >= 0 {
			return i
		}
		return len(order)
	}
	sortFew(ordered, func(a, b *link) bool { return rank(a) < rank(b) })
	return ordered
}

// orderFile keeps the MAC addresses in the order of the last boot's names, where
// that order is not the bus's: the primary interface, with names=imds all.
const orderFile = stateDir + "/interfaces"

// remembered reads a file of the state that keeps MAC addresses, a line each.
func (m *machine) remembered(file string) []string {
	data, err := m.guest.read(file, 4096)
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

func (m *machine) remember(file string, addresses []string) error {
	if slices.Equal(m.remembered(file), addresses) {
		return nil
	}
	if err := m.guest.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return err
	}
	return m.guest.write(file, []byte(strings.Join(addresses, "\n")+"\n"), rootFile(0o600))
}

// What udev's rules of old left in images to tie names to MAC addresses, and
// the rule that writes them.
const (
	persistentRules = "/etc/udev/rules.d/70-persistent-net.rules"
	generatorRules  = "75-persistent-net-generator.rules"
)

// disableNetRules keeps the image's udev from giving the names of another VM:
// stale rules are put aside, the rule that writes them is masked.
func (m *machine) disableNetRules() error {
	if m.cfg.Names == namesKeep {
		return nil
	}
	if data, err := m.guest.read(persistentRules, 1<<20); err == nil {
		aside := persistentRules + ".azprov-disabled"
		if err := m.guest.write(aside, data, rootFile(0o644)); err != nil {
			return err
		}
		if err := m.guest.remove(persistentRules); err != nil {
			return err
		}
		m.warn("interfaces", "%s of the image ties names to MAC addresses: moved to %s", persistentRules, aside)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mask := "/etc/udev/rules.d/" + generatorRules
	if !m.guest.isFile("/lib/udev/rules.d/"+generatorRules) && !m.guest.isFile("/usr/lib/udev/rules.d/"+generatorRules) || m.guest.isFile(mask) {
		return nil
	}
	m.warn("interfaces", "%s, which ties names to MAC addresses, is masked by an empty file of that name in /etc", generatorRules)
	return m.guest.write(mask, nil, rootFile(0o644))
}
