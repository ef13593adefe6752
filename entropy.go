package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCredit is how many bits are credited at most for one piece of data: what
// the kernel's pool holds since 5.18 (POOL_BITS of drivers/char/random.c).
const maxCredit = 256

// stepEntropy mixes into the kernel's generator what the host offers and the
// seed that an earlier boot has saved (entropy.seed), once in a boot.
//
// Mixing can only improve the generator. A credit (entropy.credit) also lets
// getrandom(2) answer at once, which is right only for data that nobody else
// knows and that was never used. For the host's table that is the host's word;
// where the host is not trusted, in a confidential VM, or where a saved state is
// resumed twice, it does not hold. So the default is no credit: since 5.4 the
// kernel makes entropy of its own within a second where it has none.
func (b *boot) stepEntropy(context.Context) (string, error) {
	bootID := sysAttr(b.proc("sys/kernel/random/boot_id"))
	marker := b.runfs + "/azprov/entropy"
	if bootID != "" && sysAttr(marker) == bootID {
		return "", nil
	}
	data, taken, err := b.hostEntropy()
	defer clear(data)
	if err != nil {
		b.warn("entropy", "%v", err)
	}
	text := ""
	if taken {
		text = "the kernel has taken the host's"
	}
	if len(data) == 0 && b.cfg.EntropySeed == "" {
		return text, nil
	}
	f, err := os.OpenFile(b.dev("random"), os.O_WRONLY, 0)
	if err != nil {
		return "", failure("open", b.dev("random"), err)
	}
	p := &pool{f: f, credit: b.cfg.EntropyCredit}
	defer p.f.Close()
	if err := noteBoot(marker, bootID); err != nil && p.credit {
		b.warn("entropy", "nothing is credited, since a second run could not tell: %v", err)
		p.credit = false
	}
	before := sysAttr(b.proc("sys/kernel/random/entropy_avail"))
	if len(data) > 0 {
		bits, err := p.add(data, true)
		if err != nil {
			return "", err
		}
		text = sprintf("%d bytes of the host, %d bits credited", len(data), bits)
	}
	if b.cfg.EntropySeed != "" {
		seeded, err := b.restoreSeed(p, b.cfg.EntropySeed)
		if err != nil {
			return "", err
		}
		text = joinTexts(text, seeded)
	}
	// Since 4.17; an older kernel, or one that has no entropy yet, refuses.
	_, _ = ioctlArg(int(p.f.Fd()), unix.RNDRESEEDCRNG, 0)
	return sprintf("%s; the pool had %s bits, has %s", text, before, sysAttr(b.proc("sys/kernel/random/entropy_avail"))), nil
}

// noteBoot keeps the boot's id, by which a second run in it knows of the first.
func noteBoot(marker, bootID string) error {
	if bootID == "" {
		return errors.New("the kernel names no boot_id")
	}
	if err := os.MkdirAll(path.Dir(marker), 0o700); err != nil {
		return failure("make directory", path.Dir(marker), err)
	}
	if err := os.WriteFile(marker, []byte(bootID+"\n"), 0o600); err != nil {
		return failure("write", marker, err)
	}
	return nil
}

const (
	acpiHeader  = 36   // sizeof(struct acpi_table_header), include/acpi/actbl.h
	minOEM0     = 8    // what drivers/hv/hv_common.c takes for a table of the host
	maxOEM0     = 4060 // with its header a page, which sysfs gives at once
	oem0TableID = "MICROSFT"
)

// hostEntropy returns the random bytes, 64 today, that Hyper-V puts into the ACPI
// table OEM0 at each start of a VM; none where there is no such table. taken says
// that the kernel has used them: since 6.9 drivers/hv/hv_common.c does so on both
// generations, zeroes them and cuts the table to its header.
func (m *machine) hostEntropy() (data []byte, taken bool, err error) {
	name := m.sys("firmware/acpi/tables/OEM0")
	if !m.hyperV() {
		return nil, false, nil
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, failure("open", name, err)
	}
	defer f.Close()
	table := make([]byte, acpiHeader+maxOEM0)
	n, err := f.Read(table)
	if err != nil {
		return nil, false, failure("read", name, err)
	}
	return parseOEM0(table[:n])
}

// parseOEM0 judges the whole table. One that is not of Microsoft is no error.
func parseOEM0(table []byte) (data []byte, taken bool, err error) {
	// Signature at 0, length at 4 (u32), oem_table_id at 16 (8 bytes).
	if len(table) < acpiHeader || string(table[:4]) != "OEM0" || string(table[16:24]) != oem0TableID {
		return nil, false, nil
	}
	length := binary.LittleEndian.Uint32(table[4:])
	data = table[acpiHeader:]
	switch {
	case length == acpiHeader:
		return nil, true, nil
	case int64(length) != int64(len(table)) || len(data) < minOEM0 || len(data) > maxOEM0:
		return nil, false, failure("read ACPI table", "OEM0", errorf("length %d, and %d bytes were read", length, len(table)))
	case len(bytes.Trim(data, "\x00")) == 0:
		return nil, true, nil
	}
	return data, false, nil
}

// pool is the kernel's generator, open at /dev/random.
type pool struct {
	f      *os.File
	credit bool
}

// poolInfo is the argument of RNDADDENTROPY (include/uapi/linux/random.h):
//
//	struct rand_pool_info {
//		int   entropy_count;	// 0: bits
//		int   buf_size;		// 4: bytes
//		__u32 buf[];		// 8
//	};
func poolInfo(data []byte, bits int) []byte {
	info := make([]byte, 8+len(data))
	binary.NativeEndian.PutUint32(info, uint32(bits))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(data)))
	copy(info[8:], data)
	return info
}

// add mixes data in and returns how many bits it was credited with: as many as
// it has, up to maxCredit, or none if it is not unknown to others or the
// configuration says so.
func (p *pool) add(data []byte, unknown bool) (int, error) {
	bits := 0
	if p.credit && unknown {
		bits = min(8*len(data), maxCredit)
	}
	info := poolInfo(data, bits)
	defer clear(info)
	if err := ioctlBytes(int(p.f.Fd()), unix.RNDADDENTROPY, info); err != nil {
		return 0, failure("add entropy to", p.f.Name(), err)
	}
	return bits, nil
}

// A seed file is a line that says for which VM the seed was drawn, and the seed.
// The id is empty when the generator had no entropy at that time: such a seed is
// mixed in, but never credited. Nor is that of another VM, whose disk this one
// is a copy of.
const (
	seedMagic = "azprov-seed "
	seedSize  = 64
)

// restoreSeed mixes a saved seed in and leaves another in its place, to be used
// at the next boot. The file holds the new one, durably, before the old one is
// used: no seed is used twice, whatever happens. Without a file one is made.
func (b *boot) restoreSeed(p *pool, file string) (string, error) {
	old, err := b.guest.read(file, 4096)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	defer clear(old)
	line, seed, _ := bytes.Cut(old, []byte("\n"))
	owner, ours := strings.CutPrefix(string(line), seedMagic)
	if len(old) > 0 && (!ours || len(seed) != seedSize) {
		return "", failureHint("replace seed", file, errors.New("not a seed of azprov"), "name a file that is nothing else with entropy.seed")
	}
	drawn, err := b.saveSeed(file, seed)
	if err != nil || len(old) == 0 {
		return "seed saved", err
	}
	bits, err := p.add(seed, owner != "" && owner == b.instanceID())
	if err != nil {
		return "", err
	}
	if !drawn { // perhaps there is entropy now
		if _, err := b.saveSeed(file, seed); err != nil {
			return "", err
		}
	}
	return sprintf("saved seed, %d bits credited", bits), nil
}

// saveSeed makes a seed of the old one and of the kernel's generator, and makes
// it durable. drawn says that the generator had entropy.
func (b *boot) saveSeed(file string, old []byte) (drawn bool, err error) {
	var fresh [seedSize]byte
	owner, drawn := b.instanceID(), true
	if n, err := unix.Getrandom(fresh[:], unix.GRND_NONBLOCK); err != nil || n != len(fresh) {
		owner, drawn = "", false
		if u, err := os.Open(b.dev("urandom")); err == nil { // never blocks
			_, _ = io.ReadFull(u, fresh[:])
			u.Close()
		}
	}
	var d sha512
	d.reset()
	d.write(old)
	d.write(fresh[:])
	seed := d.sum([]byte(seedMagic + owner + "\n"))
	d, fresh = sha512{}, [seedSize]byte{}
	defer clear(seed)
	if err := b.guest.mkdir(path.Dir(file), 0o700, 0, 0); err != nil {
		return false, err
	}
	return drawn, b.guest.write(file, seed, rootFile(0o600))
}
