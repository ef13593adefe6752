package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// azprov init -- COMMAND in a container: as its PID 1, and started by another
// program. It provisions, forwards signals, reaps orphans and ends as the command
// does.
func TestHelperInAContainer(t *testing.T) {
	need(t, "unshare", "setsid")
	for name, start := range map[string]string{
		"PID 1":             "unshare --pid --fork --mount-proc --kill-child /opt/azprov init -- ",
		"under another one": "/opt/azprov init -- ",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			o := b.run("", start+`sh -c 'id -un opsadmin; exit 7'`)
			if o.code != 7 || o.reports() != "Ready" || !strings.Contains(o.output, "\nopsadmin\n") {
				t.Errorf("exit %d, reports %q\n%s", o.code, o.reports(), o.output)
			}
			if o = b.run("", start+"/none"); o.code != 127 || !strings.Contains(o.output, "find program /none") {
				t.Errorf("no command: exit %d\n%s", o.code, o.output)
			}
			if o = b.run("", start+"sh -c 'kill -9 $$'"); o.code != 137 {
				t.Errorf("a command that is killed: exit %d\n%s", o.code, o.output)
			}
			// The orphan's parent is the helper when it ends, and it leaves no zombie.
			writeTree(t, filepath.Join(b.dir, "root"), map[string]string{
				"opt/orphan": "sleep 0.3; cut -d' ' -f4 /proc/$$/stat >/var/tmp/parent\n",
				"opt/parent": "(setsid sh /opt/orphan &)\nsleep 1.5\n[ \"$(cat /var/tmp/parent)\" -eq $PPID ] && echo adopted\n" +
					"grep -l 'State:.*zombie' /proc/[0-9]*/status 2>/dev/null; true\n"})
			o = b.run("", start+"sh /opt/parent")
			if o.code != 0 || !strings.Contains(o.output, "adopted") || strings.Contains(o.output, "/status") {
				t.Errorf("orphans: exit %d\n%s", o.code, o.output)
			}
			// A signal reaches the command, which ends by it as it likes.
			o = b.run("", start+`sh -c 'trap "echo got TERM; exit 9" TERM; echo $$ >/var/tmp/ready; while :; do sleep 0.1; done' & `+
				"helper=$!; rm -f /var/tmp/ready; while ! [ -s /var/tmp/ready ]; do sleep 0.1; done; "+
				// With unshare in between, its child is the helper.
				"child=$(cat /proc/$helper/task/$helper/children); if grep -q unshare /proc/$helper/comm; then kill -TERM $child; else kill -TERM $helper; fi; wait $helper")
			if o.code != 9 || !strings.Contains(o.output, "got TERM") {
				t.Errorf("a signal: exit %d\n%s", o.code, o.output)
			}
		})
	}
}
