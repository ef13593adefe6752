package main

import (
	"context"
	"errors"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostRSABits is the size of RSA host keys: what NIST SP 800-57 asks for beyond
// 2030, and ssh-keygen's own choice.
const hostRSABits = 3072

// hostKeysFile records the host keys that were made for an instance, so that a
// run that was cut off is finished with those that it had made, and a later boot
// changes none: lines of key=value.
const hostKeysFile = stateDir + "/hostkeys"

// hostKeysRecord is that file.
type hostKeysRecord struct {
	instance string
	done     bool
	made     map[string]string // kind to SHA-256 fingerprint
}

func (m *machine) loadHostKeysRecord() (*hostKeysRecord, error) {
	data, err := m.guest.read(hostKeysFile, 4096)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &hostKeysRecord{made: map[string]string{}}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "id":
			r.instance = value
		case "done":
			r.done = value == "yes"
		default:
			r.made[key] = value
		}
	}
	return r, nil
}

func (r *hostKeysRecord) encode() []byte {
	text := "id=" + r.instance + "\n"
	for _, kind := range keyKinds {
		if r.made[kind] != "" {
			text += kind + "=" + r.made[kind] + "\n"
		}
	}
	if r.done {
		text += "done=yes\n"
	}
	return []byte(text)
}

// hostKeys is the work of the two steps that make host keys.
type hostKeys struct {
	files   []keyFile
	missing []string // kinds that are still to be made
	fresh   bool     // what is not made for this instance goes
	record  *hostKeysRecord
	made    bool // some were made in this run
}

// planHostKeys decides which kinds of keys this run makes.
func (b *boot) planHostKeys() (*hostKeys, error) {
	files, err := b.keyFiles()
	if err != nil || len(files) == 0 {
		return nil, err
	}
	record, err := b.loadHostKeysRecord()
	if err != nil {
		return nil, err
	}
	h := &hostKeys{files: files, record: record}
	id := b.instanceID()
	any := slices.ContainsFunc(files, func(f keyFile) bool { return f.public != nil })
	has := func(word string) bool { return slices.Contains(b.cfg.HostKeys, word) }
	switch {
	case record != nil && (instance{ID: record.instance}).of(id):
		// Ours: what an earlier run has begun is finished.
		if record.done {
			return h, nil
		}
		h.fresh = true
	case b.phase != firstBoot || has("keep") && any || b.specialized && any && !has("regenerate"):
		return h, nil
	default:
		h.fresh = true
		h.record = &hostKeysRecord{instance: id, made: map[string]string{}}
	}
	for _, kind := range b.wantedKinds(files) {
		if made := h.record.made[kind]; made == "" || !allHold(files, kind, made) {
			h.missing = append(h.missing, kind)
		}
	}
	if len(h.missing) == 0 && len(h.record.made) == 0 {
		return nil, failureHint("make host keys", "", errors.New("the SSH server's configuration names no key of a wanted type"), "set hostkeys, or the server's HostKey lines")
	}
	return h, nil
}

// wantedKinds are the kinds that the configuration lists; without a list Ed25519
// and RSA, and ECDSA where the image has it or the server's configuration names
// it. FIPS mode has ECDSA in place of Ed25519. Only kinds with a place count.
func (m *machine) wantedKinds(files []keyFile) []string {
	fips := sysAttr(m.proc("sys/crypto/fips_enabled")) == "1"
	listed := slices.ContainsFunc(m.cfg.HostKeys, func(word string) bool { return slices.Contains(keyKinds[:3], word) })
	var kinds []string
	for _, kind := range keyKinds[:3] {
		at := slices.IndexFunc(files, func(f keyFile) bool { return f.kind == kind })
		wanted := slices.Contains(m.cfg.HostKeys, kind)
		if !listed {
			switch kind {
			case "ed25519":
				wanted = !fips
			case "ecdsa":
				wanted = fips || at >= 0 && (files[at].named || files[at].exists)
			default:
				wanted = true
			}
		}
		switch {
		case wanted && at >= 0:
			kinds = append(kinds, kind)
		case wanted && listed:
			m.warn("hostkeys", "no %s key is made: the configuration of sshd names no file for it", kind)
		}
	}
	return kinds
}

// allHold says whether every file of a kind holds the key with a fingerprint.
func allHold(files []keyFile, kind, fingerprint string) bool {
	for _, f := range files {
		if f.kind != kind {
			continue
		}
		if f.public == nil {
			return false
		}
		if sha, _ := fingerprints(f.public); sha != fingerprint {
			return false
		}
	}
	return true
}

// stepHostKeys makes all host keys but RSA, which takes long, and removes those
// that came with the image. It never leaves the image without a key that it had.
func (b *boot) stepHostKeys(context.Context) (string, error) {
	if b.poolKind != "" {
		return "", nil // they are made for who gets the VM
	}
	h, err := b.planHostKeys()
	if err != nil {
		return "", err
	}
	if h == nil {
		return "no SSH server in the image that needs host keys", nil
	}
	b.keys = h
	var made []string
	for _, kind := range h.missing {
		if kind == "rsa" {
			continue
		}
		create := newEd25519
		if kind == "ecdsa" {
			create = newECDSA
		}
		k, err := create()
		if err != nil {
			return "", err
		}
		if err := b.putHostKey(h, kind, k, (*edit).commitLater); err != nil {
			return "", err
		}
		made = append(made, kind)
	}
	h.missing = slices.DeleteFunc(h.missing, func(kind string) bool { return kind != "rsa" })
	if h.fresh && len(h.record.made) > 0 {
		if err := b.removeStale(h); err != nil {
			return "", err
		}
	}
	b.hostKeys = listHostKeys(h.files)
	if len(made) == 0 {
		return "", nil
	}
	return "made " + strings.Join(made, ", "), nil
}

// putHostKey writes a key to every file of its kind and notes it in the record.
func (b *boot) putHostKey(h *hostKeys, kind string, k *sshKeyPair, commit func(*edit) error) error {
	defer k.wipe()
	comment := "root"
	if name := b.knownHostName(); validHostName(name) == nil {
		comment += "@" + name
	}
	text, err := k.openSSHFile(comment)
	if err != nil {
		return err
	}
	defer text.wipe()
	e := b.guest.edit()
	for i := range h.files {
		f := &h.files[i]
		if f.kind != kind {
			continue
		}
		if err := b.guest.mkdir(path.Dir(f.path), 0o755, 0, 0); err != nil {
			return err
		}
		data := text
		if f.dropbear {
			data = k.dropbear
		} else if err := e.put(f.path+".pub", []byte(publicLine(k.public, comment)+"\n"), rootFile(0o644)); err != nil {
			return err
		}
		if err := e.put(f.path, data, rootFile(0o600)); err != nil {
			return err
		}
		if b.guest.isFile(f.path + "-cert.pub") {
			b.warn("hostkeys", "%s-cert.pub certifies the key that was here before", oneLine(f.path, 200))
		}
		f.exists, f.public = true, k.public
	}
	h.record.made[kind], _ = fingerprints(k.public)
	if err := b.putHostKeysRecord(e, h.record); err != nil {
		return err
	}
	if err := commit(e); err != nil {
		return err
	}
	h.made = true
	return nil
}

func (b *boot) putHostKeysRecord(e *edit, r *hostKeysRecord) error {
	if err := b.guest.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return err
	}
	return e.put(hostKeysFile, r.encode(), rootFile(0o600))
}

// removeStale removes the keys that were not made for this instance: whoever has
// the image has them too.
func (b *boot) removeStale(h *hostKeys) error {
	for i := range h.files {
		f := &h.files[i]
		if !f.exists || h.record.made[f.kind] != "" {
			continue
		}
		f.exists, f.public = false, nil
		if err := b.guest.remove(f.path); err != nil {
			return err
		}
		if !f.dropbear {
			if err := b.guest.remove(f.path + ".pub"); err != nil {
				return err
			}
		}
	}
	return nil
}

// stepRSAKey makes the RSA host key, if one is missing, ends the record, and
// tells console and host all fingerprints. The platform has been told Ready by
// then, mostly: nothing waits for it but the end of the run.
func (b *boot) stepRSAKey(ctx context.Context) (string, error) {
	h := b.keys
	if h == nil {
		return "", nil
	}
	text, err := "", error(nil)
	if len(h.missing) > 0 {
		text, err = b.makeRSAKey(ctx, h)
	}
	if err == nil && h.fresh && !h.record.done {
		err = b.endHostKeys(h)
	}
	if h.made && (text != "" || b.lastReload().IsZero()) {
		b.reloadSSHD()
	}
	b.allHostKeys = listHostKeys(h.files)
	if h.made || b.phase == firstBoot {
		b.tellHostKeys(b.allHostKeys)
	}
	return text, err
}

func (b *boot) makeRSAKey(ctx context.Context, h *hostKeys) (string, error) {
	began := time.Now()
	// Threads of the lowest priority, beside as many of Go's as there were: what
	// else this run does goes on as if they weren't there.
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(procs + 2)
	k, err := generateRSAWith(ctx, hostRSABits, func() {
		runtime.LockOSThread() // it ends with the goroutine
		unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	})
	runtime.GOMAXPROCS(procs)
	if err != nil {
		return "", failureHint("make rsa host key", "", err, "the next run makes it")
	}
	took := time.Since(began)
	if err := b.putHostKey(h, "rsa", newSSHRSA(k), (*edit).commit); err != nil {
		return "", err
	}
	return sprintf("made rsa, %d bits, in %d ms", hostRSABits, took.Milliseconds()), b.removeStale(h)
}

// endHostKeys records that all is made, after that is durable.
func (b *boot) endHostKeys(h *hostKeys) error {
	if err := b.guest.settle(); err != nil {
		return err
	}
	for _, f := range h.files {
		rel, err := b.guest.resolve(path.Dir(f.path))
		if err == nil {
			err = b.guest.syncDir(rel)
		}
		if err != nil {
			return err
		}
	}
	h.record.done = true
	e := b.guest.edit()
	if err := b.putHostKeysRecord(e, h.record); err != nil {
		return err
	}
	return e.commitLater()
}
