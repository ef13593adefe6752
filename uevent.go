package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// uevent is what the kernel says about a device that has come, gone or changed
// (lib/kobject_uevent.c): "ACTION@DEVPATH\0KEY=value\0KEY=value\0...".
type uevent struct {
	Action    string // add, remove, change, bind, ...
	Subsystem string
	Modalias  string
	DevName   string // below /dev, "" if the device has no node
}

// maxUevent is the kernel's UEVENT_BUFFER_SIZE of 2048 bytes and the header.
const maxUevent = 8192

// parseUevent decodes one datagram. It is false for what the kernel does not
// send, such as udev's own messages, which start with "libudev".
func parseUevent(data []byte) (uevent, bool) {
	var u uevent
	head, rest, _ := bytes.Cut(data, []byte{0})
	action, path, ok := bytes.Cut(head, []byte("@"))
	if !ok || len(path) == 0 || path[0] != '/' {
		return u, false
	}
	u.Action = string(action)
	for len(rest) > 0 {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{0})
		key, value, _ := strings.Cut(string(pair), "=")
		switch key {
		case "SUBSYSTEM":
			u.Subsystem = value
		case "MODALIAS":
			u.Modalias = value
		case "DEVNAME":
			u.DevName = value
		}
	}
	return u, true
}

// ueventSocket listens to the kernel's device events. The steps of azprov have
// no udev to rely on.
type ueventSocket struct {
	fd   int
	wake int // eventfd that ends a receive
}

func listenUevents() (*ueventSocket, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, failure("make eventfd", "", err)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		unix.Close(wake)
		return nil, failure("open uevent socket", "", err)
	}
	// A burst at module load must not overflow the queue; if it does, receive says so.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(wake)
		unix.Close(fd)
		return nil, failure("bind uevent socket", "", err)
	}
	return &ueventSocket{fd, wake}, nil
}

// interrupt ends a receive that is waiting, and every later one.
func (s *ueventSocket) interrupt() {
	_, _ = unix.Write(s.wake, []byte{0, 0, 0, 0, 0, 0, 0, 1})
}

// close must not be called while a receive is under way.
func (s *ueventSocket) close() {
	unix.Close(s.fd)
	unix.Close(s.wake)
}

// errInterrupted is how receive ends after interrupt.
var errInterrupted = errors.New("interrupted")

// receive waits for events and returns all that are queued, at most 4096. lost
// is true when the kernel dropped some: then sysfs has to be read again.
func (s *ueventSocket) receive() (events []uevent, lost bool, err error) {
	return s.receiveWithin(-time.Millisecond)
}

// receiveWithin is receive that ends without events after a time, if that is not
// negative.
func (s *ueventSocket) receiveWithin(wait time.Duration) (events []uevent, lost bool, err error) {
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, int(wait.Milliseconds())); err != nil && err != unix.EINTR {
		return nil, false, os.NewSyscallError("poll", err)
	}
	if poll[1].Revents != 0 {
		return nil, false, errInterrupted
	}
	buf := make([]byte, maxUevent)
	for len(events) < 4096 {
		n, from, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EAGAIN, unix.EINTR:
			return events, lost, nil
		case unix.ENOBUFS:
			lost = true
			continue
		default:
			return events, lost, os.NewSyscallError("recvfrom", err)
		}
		// Anyone may send to a netlink group that allows it; the kernel's port is 0.
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if u, ok := parseUevent(buf[:n]); ok {
			events = append(events, u)
		}
	}
	return events, lost, nil
}
