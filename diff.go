package main

import (
	"fmt"
	"strings"
)

// diffContext is how many unchanged lines stand around a change.
const diffContext = 3

// maxDiffCells bounds the work on what differs: lines of one side times lines of
// the other. Beyond it all of them are shown as replaced.
const maxDiffCells = 4 << 20

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
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", hunkRange(ox, x-ox), hunkRange(oy, y-oy))
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
	return fmt.Sprintf("%d,%d", start, n)
}

func diffLines(text []byte) []string {
	list := strings.SplitAfter(string(text), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// diffOps says for each line of the result: ' ' both have it, '-' only the old,
// '+' only the new text, with as few changes as can be.
func diffOps(a, b []string) []byte {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	ops := repeatOp(nil, ' ', head)
	a, b = a[head:len(a)-tail], b[head:len(b)-tail]
	if n, m := len(a), len(b); n*m <= maxDiffCells {
		// common[i*(m+1)+j] is the length of what a[i:] and b[j:] have in common.
		common := make([]int32, (n+1)*(m+1))
		for i := n - 1; i >= 0; i-- {
			for j := m - 1; j >= 0; j-- {
				at := i*(m+1) + j
				if a[i] == b[j] {
					common[at] = common[at+m+2] + 1
				} else {
					common[at] = max(common[at+1], common[at+m+1])
				}
			}
		}
		i, j := 0, 0
		for i < n && j < m {
			at := i*(m+1) + j
			switch {
			case a[i] == b[j]:
				ops = append(ops, ' ')
				i, j = i+1, j+1
			case common[at+m+1] >= common[at+1]:
				ops = append(ops, '-')
				i++
			default:
				ops = append(ops, '+')
				j++
			}
		}
		a, b = a[i:], b[j:]
	}
	ops = repeatOp(ops, '-', len(a))
	ops = repeatOp(ops, '+', len(b))
	return repeatOp(ops, ' ', tail)
}

func repeatOp(ops []byte, op byte, n int) []byte {
	for range n {
		ops = append(ops, op)
	}
	return ops
}
