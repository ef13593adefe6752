package main

import (
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where azprov keeps its state, and where other software of the image looks for
// what a provisioner leaves behind.
const (
	stateDir   = "/var/lib/azprov"
	waagentDir = "/var/lib/waagent"
)

// progress is how far an instance has come. "Applied" and "acknowledged" are two
// facts: the first is the guest's, the second Azure's.
type progress string

const (
	untouched    progress = ""
	applying     progress = "applying"
	pooling      progress = "pooling" // about to report Ready for a pool
	pooled       progress = "pooled"  // reported it; waits to be given to a customer
	applied      progress = "applied"
	acknowledged progress = "acknowledged"
)

// instance is the record of what has been done to which VM, kept in
// /var/lib/azprov/instance as lines of key=value.
type instance struct {
	ID       string // SMBIOS product UUID, raw, lower case; may be empty
	Progress progress
	// Script is "" when there is nothing to run, "pending", or how it ended.
	Script string
}

// loadInstance reads the record. A missing one is the zero value; one that can't
// be understood is an error: starting over could undo a customer's changes.
func loadInstance(g *guest) (instance, error) {
	var in instance
	data, err := g.read(stateDir+"/instance", 4096)
	if errors.Is(err, os.ErrNotExist) {
		return in, nil
	}
	if err != nil {
		return in, err
	}
	if in, err = parseInstance(data); err != nil {
		return in, failureHint("read state", stateDir+"/instance", err, "remove the file to provision again")
	}
	return in, nil
}

func parseInstance(data []byte) (instance, error) {
	var in instance
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "id":
			in.ID = value
		case "progress":
			in.Progress = progress(value)
		case "script":
			in.Script = value
		}
	}
	switch in.Progress {
	case applying, pooling, pooled, applied, acknowledged:
		return in, nil
	}
	return in, errors.New("no known progress in it")
}

func (in instance) encode() []byte {
	return []byte(sprintf("id=%s\nprogress=%s\nscript=%s\n", in.ID, string(in.Progress), oneLine(in.Script, 200)))
}

// of says whether the record is about the VM with this id: the same UUID in
// either byte order. An unknown id matches anything.
func (in instance) of(id string) bool {
	return in.ID == "" || id == "" || in.ID == id || swapUUID(in.ID) == id
}

// save makes the record durable.
func (in instance) save(g *guest) error {
	if err := g.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return err
	}
	return g.write(stateDir+"/instance", in.encode(), rootFile(0o600))
}

// lockState keeps a second azprov out while this one runs. The lock goes with
// the process, however it ends.
func lockState(g *guest) (*os.File, error) {
	if err := g.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return nil, err
	}
	rel, err := g.resolve(stateDir + "/lock")
	if err != nil {
		return nil, err
	}
	f, err := g.open(rel, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, failure("open lock", stateDir+"/lock", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, failureHint("lock", stateDir+"/lock", err, "another azprov is running on this root")
	}
	return f, nil
}

// statusSchema is the version of status.json; it changes when a member's meaning does.
const statusSchema = 1

// status is what the run leaves in status.json.
func (b *boot) status(results []result, exit int) object {
	steps := []any{}
	for _, r := range results {
		o := object{{"name", r.Name}, {"outcome", string(r.Outcome)},
			{"start_ms", milliseconds(r.Start)}, {"end_ms", milliseconds(r.End)}, {"text", r.Text}}
		if r.Err != nil && r.Err != errNeed {
			o = append(o, member{"error", errorJSON(r.Err)})
		}
		steps = append(steps, o)
	}
	warnings := []any{}
	for _, w := range b.warnings {
		warnings = append(warnings, object{{"step", w.Step}, {"text", w.Text}})
	}
	o := object{
		{"schema", statusSchema}, {"version", version}, {"instance", b.instance.ID}, {"vm_id", b.vmID()},
		{"progress", string(b.instance.Progress)}, {"exit", exit},
		{"started", b.started.UTC().Format(time.RFC3339Nano)},
		{"took_ms", milliseconds(time.Since(b.run.began))},
		{"kernel", b.kernelRelease()}, {"numa", b.numa()},
	}
	if b.readyAfter > 0 {
		o = append(o, member{"ready_ms", milliseconds(b.readyAfter)})
	}
	if b.instance.Script != "" {
		o = append(o, member{"custom_data", b.instance.Script})
	}
	if keys := b.knownHostKeys(); len(keys) > 0 {
		o = append(o, member{"host_keys", hostKeysJSON(keys)})
	}
	return append(o, member{"steps", steps}, member{"warnings", warnings})
}

func errorJSON(err error) object {
	o := object{{"text", oneLine(err.Error(), 900)}}
	var se *stepError
	if errors.As(err, &se) {
		o = append(o, member{"step", se.Step}, member{"path", oneLine(se.Path, 300)})
	}
	if no := errnoOf(err); no != 0 {
		o = append(o, member{"errno", int(no)}, member{"name", unix.ErrnoName(no)})
	}
	return o
}

// saveStatus keeps the last run's status for azprov status. It is information:
// the caller only warns when it fails.
func (b *boot) saveStatus(o object) error {
	if err := b.guest.mkdir(stateDir, 0o700, 0, 0); err != nil {
		return err
	}
	return b.guest.write(stateDir+"/status.json", []byte(indentJSON(o)), rootFile(0o600))
}
