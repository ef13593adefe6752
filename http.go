package main

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of an exchange.
const (
	maxHTTPHeader  = 32 << 10
	maxHTTPBody    = 1 << 20
	maxHTTPInterim = 8 // 1xx answers before the real one
	connectTimeout = 5 * time.Second
	readTimeout    = 10 * time.Second
	requestTimeout = 30 * time.Second
)

type httpHeader struct{ name, value string }

// httpRequest is a request of the platform's simple kind. Target is path and
// query, sent byte for byte.
type httpRequest struct {
	method, target string
	header         []httpHeader
	body           []byte
}

type httpResponse struct {
	status int
	header []httpHeader
	body   []byte
}

// get returns the value of the first header field with a name.
func (r *httpResponse) get(name string) string {
	for _, h := range r.header {
		if strings.EqualFold(h.name, name) {
			return h.value
		}
	}
	return ""
}

// httpClient talks HTTP/1.1 (RFC 9112) to one address over a socket of its own:
// no names, no proxy, no redirects, no compression. One connection is kept
// alive between requests. It is for one goroutine at a time.
type httpClient struct {
	addr                    ipAddrPort
	fd                      int // -1 when there is no connection
	connectLimit, readLimit time.Duration
}

func newHTTPClient(addr ipAddrPort) *httpClient {
	return &httpClient{addr: addr, fd: -1, connectLimit: connectTimeout, readLimit: readTimeout}
}

// errConnect is a request that did not reach the server.
var errConnect = errors.New("connect")

func (c *httpClient) close() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// do sends a request and reads the answer, whatever its status. A connection
// that the server has closed meanwhile is replaced once. It ends within 30 s
// or when ctx is done.
func (c *httpClient) do(ctx context.Context, req *httpRequest) (*httpResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reused := c.fd >= 0
	resp, begun, err := c.exchange(ctx, req)
	if err != nil && reused && !begun && ctx.Err() == nil {
		c.close()
		resp, _, err = c.exchange(ctx, req)
	}
	if err != nil {
		c.close()
		return nil, failure(req.method, "http://"+c.addr.String()+req.target, err)
	}
	return resp, nil
}

// exchange does one request on the connection. Begun says whether any byte of
// an answer came.
func (c *httpClient) exchange(ctx context.Context, req *httpRequest) (resp *httpResponse, begun bool, err error) {
	if c.fd < 0 {
		if err := c.connect(ctx); err != nil {
			return nil, false, err
		}
	}
	host := c.addr.Addr.String()
	if c.addr.Port != 80 {
		host = c.addr.String()
	}
	var b bytes.Buffer
	fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: azprov/%s\r\n", req.method, req.target, host, version)
	for _, h := range req.header {
		fprintf(&b, "%s: %s\r\n", h.name, h.value)
	}
	if req.method == "POST" {
		fprintf(&b, "Content-Length: %d\r\n", len(req.body))
	}
	b.WriteString("\r\n")
	b.Write(req.body)
	if err := c.send(ctx, b.Bytes()); err != nil {
		return nil, false, err
	}
	r := &httpReader{fill: func(p []byte) (int, error) { return c.receive(ctx, p) }}
	resp, keep, err := r.response()
	if err != nil || !keep || r.pos != len(r.buf) {
		c.close()
	}
	return resp, r.total > 0, err
}

func (c *httpClient) connect(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errorf("open socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(c.addr.Port), Addr: c.addr.Addr.As4()})
	if errors.Is(err, unix.EINPROGRESS) {
		if err = waitFD(ctx, fd, unix.POLLOUT, c.connectLimit); err == nil {
			var code int
			if code, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
				err = unix.Errno(code)
			}
		}
	}
	if err != nil {
		unix.Close(fd)
		return errorf("%w: %w", errConnect, err)
	}
	// Requests are one write each: waiting to fill a segment only costs time.
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	c.fd = fd
	return nil
}

func (c *httpClient) send(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			b = b[n:]
		case errors.Is(err, unix.EAGAIN):
			if err := waitFD(ctx, c.fd, unix.POLLOUT, c.readLimit); err != nil {
				return errorf("send: %w", err)
			}
		case !errors.Is(err, unix.EINTR):
			return errorf("send: %w", err)
		}
	}
	return nil
}

// receive reads what is there, waiting for it; 0 and nil mean the end.
func (c *httpClient) receive(ctx context.Context, p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case err == nil:
			// A server that drips is cut off by the deadline, not by silence.
			return n, ctx.Err()
		case errors.Is(err, unix.EAGAIN):
			if err := waitFD(ctx, c.fd, unix.POLLIN, c.readLimit); err != nil {
				return 0, errorf("receive: %w", err)
			}
		case !errors.Is(err, unix.EINTR):
			return 0, errorf("receive: %w", err)
		}
	}
}

// pollSlice bounds a single poll, so that a cancelled context is noticed.
const pollSlice = 100 * time.Millisecond

// waitFD waits until a descriptor is ready, for at most limit and until ctx is done.
func waitFD(ctx context.Context, fd int, events int16, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		left := time.Until(end)
		if deadline, has := ctx.Deadline(); has {
			rest := time.Until(deadline)
			if rest <= 0 { // ctx itself may say so a little later
				return context.DeadlineExceeded
			}
			left = min(left, rest)
		}
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(min(left, pollSlice).Milliseconds())+1)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// httpReader reads one answer from fill, which returns 0 and nil at the end.
type httpReader struct {
	fill  func([]byte) (int, error)
	buf   []byte
	pos   int
	total int
	ended bool
}

var (
	errHTTPShort  = errors.New("the answer ends too early")
	errHTTPLarge  = errors.New("the answer is too large")
	errHTTPBroken = errors.New("the answer is not HTTP/1.1")
)

// more reads on; false at the end.
func (r *httpReader) more() (bool, error) {
	if r.ended {
		return false, nil
	}
	if r.pos > 0 {
		r.buf = append(r.buf[:0], r.buf[r.pos:]...)
		r.pos = 0
	}
	var chunk [4096]byte
	n, err := r.fill(chunk[:])
	if err != nil {
		return false, err
	}
	r.buf = append(r.buf, chunk[:n]...)
	r.total += n
	r.ended = n == 0
	return n > 0, nil
}

// line reads to the next line end, of at most budget bytes, which it lowers.
func (r *httpReader) line(budget *int) (string, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.pos:], '\n'); i >= 0 {
			if *budget -= i + 1; *budget < 0 {
				return "", errHTTPLarge
			}
			line := string(bytes.TrimSuffix(r.buf[r.pos:r.pos+i], []byte("\r")))
			r.pos += i + 1
			return line, nil
		}
		if len(r.buf)-r.pos > *budget {
			return "", errHTTPLarge
		}
		more, err := r.more()
		if err != nil {
			return "", err
		}
		if !more {
			return "", errHTTPShort
		}
	}
}

// response reads the answer; keep says whether the connection can be used again.
func (r *httpReader) response() (resp *httpResponse, keep bool, err error) {
	for range maxHTTPInterim {
		budget := maxHTTPHeader
		resp, keep, err = r.head(&budget)
		if err != nil {
			return nil, false, err
		}
		if resp.status >= 200 {
			closed, err := r.body(resp)
			return resp, keep && !closed, err
		}
	}
	return nil, false, errHTTPBroken
}

func (r *httpReader) head(budget *int) (*httpResponse, bool, error) {
	line, err := r.line(budget)
	if err != nil {
		return nil, false, err
	}
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 100 || proto != "HTTP/1.1" && proto != "HTTP/1.0" {
		return nil, false, errHTTPBroken
	}
	resp := &httpResponse{status: status}
	for {
		line, err := r.line(budget)
		if err != nil {
			return nil, false, err
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, false, errHTTPBroken
		}
		resp.header = append(resp.header, httpHeader{name, strings.Trim(value, " \t")})
	}
	connection := strings.ToLower(resp.get("Connection"))
	keep := proto == "HTTP/1.1" && connection != "close" || proto == "HTTP/1.0" && connection == "keep-alive"
	return resp, keep, nil
}

// body reads the answer's body. Closed says that it lasted until the end of the
// connection.
func (r *httpReader) body(resp *httpResponse) (closed bool, err error) {
	length, chunked := -1, false
	for _, h := range resp.header {
		switch strings.ToLower(h.name) {
		case "content-length":
			n, err := strconv.ParseUint(h.value, 10, 63)
			if err != nil || length >= 0 && uint64(length) != n {
				return false, errHTTPBroken
			}
			if n > maxHTTPBody {
				return false, errHTTPLarge
			}
			length = int(n)
		case "transfer-encoding":
			if !strings.EqualFold(h.value, "chunked") {
				return false, errHTTPBroken
			}
			chunked = true
		}
	}
	switch {
	case chunked && length >= 0:
		return false, errHTTPBroken
	case resp.status == 204 || resp.status == 304:
		return false, nil
	case chunked:
		return false, r.chunks(resp)
	case length >= 0:
		resp.body, err = r.take(nil, length)
		return false, err
	}
	for {
		if len(r.buf)-r.pos > maxHTTPBody {
			return true, errHTTPLarge
		}
		more, err := r.more()
		if err != nil {
			return true, err
		}
		if !more {
			resp.body = r.buf[r.pos:]
			r.pos = len(r.buf)
			return true, nil
		}
	}
}

// take appends exactly n bytes to b.
func (r *httpReader) take(b []byte, n int) ([]byte, error) {
	for n > 0 {
		if have := min(n, len(r.buf)-r.pos); have > 0 {
			b = append(b, r.buf[r.pos:r.pos+have]...)
			r.pos += have
			n -= have
			continue
		}
		more, err := r.more()
		if err != nil {
			return nil, err
		}
		if !more {
			return nil, errHTTPShort
		}
	}
	return b, nil
}

func (r *httpReader) chunks(resp *httpResponse) error {
	budget := maxHTTPHeader // for all size lines and trailers
	for {
		line, err := r.line(&budget)
		if err != nil {
			return err
		}
		text, _, _ := strings.Cut(line, ";")
		size, err := strconv.ParseUint(strings.TrimSpace(text), 16, 31)
		if err != nil {
			return errHTTPBroken
		}
		if len(resp.body)+int(size) > maxHTTPBody {
			return errHTTPLarge
		}
		if size == 0 {
			for line != "" {
				if line, err = r.line(&budget); err != nil {
					return err
				}
			}
			return nil
		}
		if resp.body, err = r.take(resp.body, int(size)); err != nil {
			return err
		}
		if line, err = r.line(&budget); err != nil || line != "" {
			return errors.Join(err, errHTTPBroken)
		}
	}
}
