package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// rtnl is a socket of rtnetlink(7): for requests, or for the events of a group.
type rtnl struct {
	fd  int
	seq uint32
	buf []byte
}

// The kernel's largest message to a socket that reads 32 KiB at a time
// (net/netlink/af_netlink.c, netlink_dump), and bounds of what is taken of one answer.
const (
	rtnlBuffer      = 32 << 10
	rtnlMessages    = 65536
	rtnlPatience    = 5 * time.Second
	rtnlMaxForeign  = 4096
	nlmsghdrSize    = unix.SizeofNlMsghdr
	rtattrSize      = 4
	nlaTypeMask     = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	nlmsgErrorBytes = 4
)

func openRTNL() (*rtnl, error) { return bindRTNL(0) }

func bindRTNL(groups uint32) (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, failure("open", "netlink route socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, failure("bind", "netlink route socket", err)
	}
	return &rtnl{fd: fd, buf: make([]byte, rtnlBuffer)}, nil
}

func (r *rtnl) close() { unix.Close(r.fd) }

// errTruncated is a message that claims to be longer than what came.
var errTruncated = errors.New("netlink: truncated message")

// receive returns one datagram of the kernel, or os.ErrDeadlineExceeded. It is
// valid until the next.
func (r *rtnl) receive(limit time.Duration) ([]byte, error) {
	end := time.Now().Add(limit)
	for range rtnlMaxForeign {
		wait := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, int((wait+time.Millisecond-1)/time.Millisecond))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, os.ErrDeadlineExceeded
		}
		n, from, err := unix.Recvfrom(r.fd, r.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Anyone may send to this socket; the kernel's port is 0.
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if n > len(r.buf) {
			return nil, errTruncated
		}
		return r.buf[:n], nil
	}
	return nil, os.ErrDeadlineExceeded
}

// execute sends a request and returns the bodies of the answers of one type, up
// to the kernel's acknowledgement or the end of its list.
func (r *rtnl) execute(kind, flags, answer uint16, body []byte) ([][]byte, error) {
	r.seq++
	b := make([]byte, nlmsghdrSize, nlmsghdrSize+len(body))
	binary.NativeEndian.PutUint32(b, uint32(nlmsghdrSize+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(b[8:], r.seq)
	if err := unix.Sendto(r.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var out [][]byte
	for {
		data, err := r.receive(rtnlPatience)
		if err != nil {
			return nil, err
		}
		for len(data) >= nlmsghdrSize {
			size := int(binary.NativeEndian.Uint32(data))
			if size < nlmsghdrSize || size > len(data) {
				return nil, errTruncated
			}
			content := data[nlmsghdrSize:size]
			is, seq := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint32(data[8:])
			data = data[min((size+3)&^3, len(data)):]
			switch {
			case seq != r.seq: // the rest of an answer that was given up
			case is == unix.NLMSG_DONE:
				return out, nil
			case is == unix.NLMSG_ERROR:
				if len(content) < nlmsgErrorBytes {
					return nil, errTruncated
				}
				if no := int32(binary.NativeEndian.Uint32(content)); no != 0 {
					return nil, unix.Errno(-no)
				}
				return out, nil
			case is == answer && len(out) < rtnlMessages:
				out = append(out, bytes.Clone(content))
			}
		}
	}
}

// request sends one message with an acknowledgement.
func (r *rtnl) request(kind, flags uint16, body []byte) error {
	_, err := r.execute(kind, unix.NLM_F_ACK|flags, 0, body)
	return err
}

// dump asks for all objects of a kind and returns their messages of one type.
func (r *rtnl) dump(kind, answer uint16, body []byte) ([][]byte, error) {
	return r.execute(kind, unix.NLM_F_DUMP, answer, body)
}

// appendAttribute appends an attribute to a message.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(rtattrSize+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttribute32(b []byte, kind uint16, value uint32) []byte {
	return appendAttribute(b, kind, binary.NativeEndian.AppendUint32(nil, value))
}

// attributes calls f with every attribute of a message.
func attributes(b []byte, f func(kind uint16, value []byte)) error {
	for len(b) >= rtattrSize {
		size := int(binary.NativeEndian.Uint16(b))
		if size < rtattrSize || size > len(b) {
			return errTruncated
		}
		f(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[rtattrSize:size])
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// attributeString is a string that the kernel ends with NUL.
func attributeString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func attributeInt(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(b)))
}

// linkWatch listens for link events (RTMGRP_LINK).
type linkWatch struct{ conn *rtnl }

func (w *linkWatch) open() (err error) {
	w.conn, err = bindRTNL(unix.RTMGRP_LINK)
	return err
}

func (w *linkWatch) close() {
	if w.conn != nil {
		w.conn.close()
	}
}

// wait returns at the next event, after limit, or with ctx's error. Lost events
// (ENOBUFS) are events: the caller lists the links anew.
func (w *linkWatch) wait(ctx context.Context, limit time.Duration) error {
	if deadline, has := ctx.Deadline(); has {
		limit = min(limit, time.Until(deadline))
	}
	_, err := w.conn.receive(max(limit, time.Millisecond))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, errTruncated) {
		return failure("wait for", "link events", err)
	}
	return nil
}
