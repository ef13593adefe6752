package main

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what Azure is told: the one text behind the KVP record and the
// description of a failed health report.
type report struct {
	Result     string // "success" or "error"
	Reason     string // of an error
	Agent      string
	VMID       string
	Time       time.Time
	Pool       string // kind of a pre-provisioned VM, "" for others
	Step, Path string
	Errno      unix.Errno
	CustomData string // how it ended, if it ran
	Warnings   []warning
}

// docURL is where the platform's users are sent.
const docURL = "https://aka.ms/linuxprovisioningerror"

// text is the report as one row of name=value fields separated by "|". Measure
// counts the bytes that a text takes where it goes; what does not fit into limit
// is left out from the end, the reason being cut first to a half.
func (r *report) text(limit int, measure func(string) int) string {
	pool := r.Pool
	if pool == "" {
		pool = "None"
	}
	fields := []string{field("result", r.Result)}
	if r.Result != "success" {
		reason := r.Reason
		for measure(field("reason", reason)) > limit/2 && reason != "" {
			reason = cutUTF8(reason, len(reason)*9/10)
		}
		fields = append(fields, field("reason", reason))
	}
	fields = append(fields, field("agent", r.Agent), field("pps_type", pool), field("vm_id", r.VMID),
		field("timestamp", r.Time.UTC().Format("2006-01-02T15:04:05.000000+00:00")))
	if r.Step != "" {
		fields = append(fields, field("step", r.Step))
	}
	if r.Path != "" {
		fields = append(fields, field("path", r.Path))
	}
	if r.Errno != 0 {
		fields = append(fields, field("errno", strconv.Itoa(int(r.Errno))+" "+unix.ErrnoName(r.Errno)))
	}
	if r.CustomData != "" {
		fields = append(fields, field("custom_data", r.CustomData))
	}
	for _, w := range r.Warnings {
		fields = append(fields, field("warning", w.Step+": "+w.Text))
	}
	if r.Result != "success" {
		fields = append(fields, field("documentation_url", docURL))
	}
	row := ""
	for _, f := range fields {
		next := row
		if next != "" {
			next += "|"
		}
		if next += f; measure(next) <= limit {
			row = next
		}
	}
	return row
}

// field is name=value on one line, quoted as cloud-init's csv dialect does: in
// single quotes, doubled inside, when it holds a quote or the separator.
func field(name, value string) string {
	s := name + "=" + oneLine(value, 2048)
	if strings.ContainsAny(s, "|'") {
		s = "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return s
}
