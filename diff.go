package main

import (
	"strings"
)

// diffContext is how many unchanged lines stand around a change.
const diffContext = 3

// maxDiffLook is how far ahead the same line is looked for.
const maxDiffLook = 1000

// unifiedDiff returns the difference of two texts as patch(1) and people read it;
// "" when there is none. A side that is nil is a file that does not exist.
func unifiedDiff(path string, old, new []byte) string {
	a, b := diffLines(old), diffLines(new)
	ops := diffOps(a, b)
	var out strings.Builder
	x, y := 0, 0 // lines that are behind
	for i := 0; i < len(ops); {
		if ops[i] == ' ' {
			i, x, y = i+1, x+1, y+1
			continue
		}
		// A hunk goes on while changes are at most two contexts apart.
		from, end, last := max(0, i-diffContext), i, i
		for end = i; end < len(ops) && end-last <= 2*diffContext; end++ {
			if ops[end] != ' ' {
				last = end
			}
		}
		end = min(len(ops), last+1+diffContext)
		x, y = x-(i-from), y-(i-from)
		var body strings.Builder
		ox, oy := x, y
		for _, op := range ops[from:end] {
			line := ""
			if op == '+' {
				line = b[y]
			} else {
				line = a[x]
			}
			if op != '+' {
				x++
			}
			if op != '-' {
				y++
			}
			body.WriteByte(op)
			body.WriteString(line)
			if !strings.HasSuffix(line, "\n") {
				body.WriteString("\n\\ No newline at end of file\n")
			}
		}
		if out.Len() == 0 {
			names := [2]string{"a" + path, "b" + path}
			if old == nil {
				names[0] = "/dev/null"
			}
			if new == nil {
				names[1] = "/dev/null"
			}
			out.WriteString("--- " + names[0] + "\n+++ " + names[1] + "\n")
		}
		fprintf(&out, "@@ -%s +%s @@\n", hunkRange(ox, x-ox), hunkRange(oy, y-oy))
		out.WriteString(body.String())
		i = end
	}
	return out.String()
}

// hunkRange is "first,count"; of nothing, the line before.
func hunkRange(start, n int) string {
	if n > 0 {
		start++
	}
	return sprintf("%d,%d", start, n)
}

func diffLines(text []byte) []string {
	list := strings.SplitAfter(string(text), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// diffOps says for each line of the result: ' ' both have it, '-' only the old,
// '+' only the new text. Of two lines that differ it skips on the side whose line
// comes up sooner on the other, which is as short as it gets for edits of lines.
func diffOps(a, b []string) (ops []byte) {
	for len(a) > 0 && len(b) > 0 {
		if a[0] == b[0] {
			ops = append(ops, ' ')
			a, b = a[1:], b[1:]
			continue
		}
		added, removed := diffDistance(b, a[0]), diffDistance(a, b[0])
		if added < removed {
			ops = repeatOp(ops, '+', added)
			b = b[added:]
		} else {
			removed = min(removed, 1) // one that comes up nowhere is replaced
			ops = repeatOp(ops, '-', removed)
			a = a[removed:]
		}
	}
	ops = repeatOp(ops, '-', len(a))
	return repeatOp(ops, '+', len(b))
}

// diffDistance is the index of the first of the next lines that is the one given.
func diffDistance(lines []string, line string) int {
	for i := range min(len(lines), maxDiffLook) {
		if lines[i] == line {
			return i
		}
	}
	return maxDiffLook
}

func repeatOp(ops []byte, op byte, n int) []byte {
	for range n {
		ops = append(ops, op)
	}
	return ops
}
