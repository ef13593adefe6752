package main

import (
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console is azprov's voice: one line a step, to standard error, or to the
// kernel log when there is none. With json each line is an object.
type console struct {
	mu    sync.Mutex
	w     io.Writer
	also  io.Writer // the serial port; nil for none
	json  bool
	kmsg  bool
	quiet bool
}

// newConsole writes to standard error, or to devfs/kmsg when descriptor 2 is
// not open.
func newConsole(devfs string, json bool) *console {
	if _, err := unix.FcntlInt(2, unix.F_GETFD, 0); err == nil {
		return &console{w: os.Stderr, json: json}
	}
	if f, err := os.OpenFile(devfs+"/kmsg", os.O_WRONLY, 0); err == nil {
		return &console{w: f, kmsg: true}
	}
	return &console{w: io.Discard}
}

// step says that a step has ended well.
func (c *console) step(name, text string, took time.Duration) {
	c.line("info", name, text, took)
}

// note says what a reader may want to know; warn, what was left undone; fail,
// why a step failed.
func (c *console) note(name, text string) { c.line("info", name, text, -1) }
func (c *console) warn(name, text string) { c.line("warning", name, text, -1) }
func (c *console) fail(name, text string) { c.line("error", name, text, -1) }

func (c *console) line(level, name, text string, took time.Duration) {
	if c == nil || c.quiet && level == "info" {
		return
	}
	text = oneLine(text, 900)
	var s string
	if c.json {
		o := object{{"level", level}, {"step", name}, {"text", text}}
		if took >= 0 {
			o = append(o, member{"ms", milliseconds(took)})
		}
		s = encodeJSON(o) + "\n"
	} else {
		s = sprintf("azprov: %-10s %s", name, text)
		if level != "info" {
			s = sprintf("azprov: %-10s %s: %s", name, level, text)
		}
		if took >= 0 {
			s = sprintf("%-76s %6s ms", s, decimal((took+50*time.Microsecond)/(100*time.Microsecond), 1))
		}
		s += "\n"
	}
	if c.kmsg {
		priority := map[string]string{"info": "<6>", "warning": "<4>", "error": "<3>"}[level]
		s = priority + s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, s)
	if c.also != nil {
		io.WriteString(c.also, s)
	}
}

// milliseconds is a duration as JSON has it, to the microsecond.
func milliseconds(d time.Duration) jsonNumber {
	text := decimal(d/time.Microsecond, 3)
	return jsonNumber(strings.TrimSuffix(strings.TrimRight(text, "0"), "."))
}

// decimal writes n, which counts units of 10 to the power of minus places.
func decimal(n time.Duration, places int) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	text := sprintf("%0"+strconv.Itoa(places+1)+"d", int64(n))
	return sign + text[:len(text)-places] + "." + text[len(text)-places:]
}

// oneLine makes any text safe for one line of a terminal or log: control
// characters become blanks, invalid UTF-8 is replaced, and it is cut to max bytes.
func oneLine(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return cutUTF8(s, max)
}

// cutUTF8 cuts s to at most max bytes without splitting a character.
func cutUTF8(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && s[max]&0xc0 == 0x80 {
		max--
	}
	return s[:max]
}
