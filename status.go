package main

import (
	"errors"
	"io"
	"os"
	"strings"
)

// printPlan prints the table of a run: a line a step, or JSON.
func printPlan(w io.Writer, cfg *config, json bool) int {
	steps := plan(cfg)
	if json {
		list := []any{}
		for _, s := range steps {
			list = append(list, object{{"name", s.name}, {"about", s.about}, {"needs", s.needs}, {"wants", s.wants},
				{"weight", s.weight.String()}, {"when", s.when.String()}})
		}
		io.WriteString(w, indentJSON(object{{"steps", list}}))
		return exitOK
	}
	fprintf(w, "%-11s %-12s %-12s %-34s %s\n", "step", "weight", "when", "needs", "what")
	for _, s := range steps {
		needs := strings.Join(s.needs, " ")
		if s.last {
			needs = "all of the above"
		}
		if len(s.wants) > 0 && !s.last {
			needs = strings.TrimSpace(needs + " (" + strings.Join(s.wants, " ") + ")")
		}
		fprintf(w, "%-11s %-12s %-12s %-34s %s\n", s.name, s.weight, s.when, needs, s.about)
	}
	io.WriteString(w, "A step starts when what it needs has ended well; what stands in brackets is waited for briefly.\n")
	return exitOK
}

// printStatus prints the last run as a table, or its status.json as it is.
func printStatus(stdout, stderr io.Writer, a *arguments) int {
	g, err := openGuest(a.root)
	if err != nil {
		return complain(stderr, err)
	}
	defer g.close()
	data, err := g.read(stateDir+"/status.json", maxJSON)
	if errors.Is(err, os.ErrNotExist) {
		fprintf(stderr, "azprov: no run has left a status below %s\n", a.root)
		return exitFailed
	}
	var o object
	if err == nil {
		var v any
		if v, err = decodeJSON(data); err == nil {
			if o, _ = v.(object); o == nil {
				err = errors.New("no object")
			}
		}
	}
	if err != nil {
		fprintf(stderr, "azprov: %v\n", failure("read status", stateDir+"/status.json", err))
		return exitFailed
	}
	if a.json {
		stdout.Write(data)
		return exitOK
	}
	writeStatus(stdout, o)
	return exitOK
}

func writeStatus(w io.Writer, o object) {
	for _, key := range []string{"progress", "exit", "instance", "vm_id", "started", "took_ms", "ready_ms", "custom_data", "version", "kernel", "numa"} {
		if text := o.text(key); text != "" {
			fprintf(w, "%-12s %s\n", key, oneLine(text, 200))
		}
	}
	keys, _ := o.get("host_keys").([]any)
	for _, v := range keys {
		k, _ := v.(object)
		fprintf(w, "%-12s %s %s\n", "host_key", oneLine(k.text("type"), 40), oneLine(k.text("sha256"), 80))
	}
	fprintf(w, "\n%-11s %-8s %9s %9s  %s\n", "step", "outcome", "start ms", "end ms", "text")
	steps, _ := o.get("steps").([]any)
	for _, v := range steps {
		s, _ := v.(object)
		text := s.text("text")
		if e, _ := s.get("error").(object); e != nil {
			text = e.text("text")
		}
		fprintf(w, "%-11s %-8s %9s %9s  %s\n", oneLine(s.text("name"), 11), oneLine(s.text("outcome"), 8), s.text("start_ms"), s.text("end_ms"), oneLine(text, 300))
	}
	warnings, _ := o.get("warnings").([]any)
	for _, v := range warnings {
		s, _ := v.(object)
		fprintf(w, "warning: %s: %s\n", oneLine(s.text("step"), 20), oneLine(s.text("text"), 900))
	}
}
