package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func clientOf(t *testing.T, address string) *httpClient {
	t.Helper()
	c := newHTTPClient(must(parseAddrPort(address)))
	t.Cleanup(c.close)
	return c
}

func get(target string) *httpRequest { return &httpRequest{method: "GET", target: target} }

func TestHTTPAgainstNetHTTP(t *testing.T) {
	var connections int
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/chunked":
			for i := range 5 {
				fmt.Fprintf(w, "part %d;", i)
				w.(http.Flusher).Flush()
			}
		case "/close":
			w.Header().Set("Connection", "close")
			io.WriteString(w, "bye")
		case "/status":
			w.WriteHeader(503)
		case "/none":
			w.WriteHeader(204)
		default:
			fmt.Fprintf(w, "%s %s %s %s", r.Method, r.RequestURI, r.Header.Get("X-A"), body)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			connections++
		}
	}
	s.Start()
	defer s.Close()
	c := clientOf(t, s.Listener.Addr().String())
	for _, x := range []struct {
		req    *httpRequest
		status int
		want   string
	}{
		{get("/a%2Db?x=1&y=2"), 200, "GET /a%2Db?x=1&y=2  "},
		{&httpRequest{"POST", "/p", []httpHeader{{"X-A", "v"}}, []byte("body")}, 200, "POST /p v body"},
		{get("/chunked"), 200, "part 0;part 1;part 2;part 3;part 4;"},
		{get("/none"), 204, ""},
		{get("/status"), 503, ""},
		{get("/close"), 200, "bye"},
		{get("/again"), 200, "GET /again  "},
	} {
		resp, err := c.do(context.Background(), x.req)
		if err != nil || resp.status != x.status || string(resp.body) != x.want {
			t.Errorf("%s: %+v, %v", x.req.target, resp, err)
		}
	}
	if connections != 2 {
		t.Errorf("%d connections, want 2: one kept alive, one after the close", connections)
	}
}

// rawServer answers each connection with a text and closes it.
func rawServer(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Read(make([]byte, 4096))
				answer(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestHTTPAnswers(t *testing.T) {
	big := strings.Repeat("h: v\r\n", 8000)
	for _, c := range []struct {
		name, answer, body string
		err                error
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", nil},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "ok", nil},
		{"until close", "HTTP/1.0 200 OK\r\n\r\nall of it", "all of it", nil},
		{"interim answer", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", nil},
		{"chunks with extension and trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: v\r\n\r\n", "abc", nil},
		{"two equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "x", nil},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", "", errHTTPBroken},
		{"length and chunked", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", errHTTPBroken},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "", errHTTPBroken},
		{"length over the limit", "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", "", errHTTPLarge},
		{"chunk over the limit", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n", "", errHTTPLarge},
		{"chunk size overflow", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "", errHTTPBroken},
		{"headers over the limit", "HTTP/1.1 200 OK\r\n" + big + "\r\n", "", errHTTPLarge},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "", errHTTPShort},
		{"short chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "", errHTTPShort},
		{"garbage", "\x00\xff\x00\r\n\r\n", "", errHTTPBroken},
		{"http 2", "HTTP/2 200 OK\r\n\r\n", "", errHTTPBroken},
		{"nothing", "", "", errHTTPShort},
		{"header without colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "", errHTTPBroken},
		{"endless interim answers", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), "", errHTTPBroken},
	} {
		address := rawServer(t, func(conn net.Conn) { io.WriteString(conn, c.answer) })
		resp, err := clientOf(t, address).do(context.Background(), get("/"))
		if !errors.Is(err, c.err) || err == nil && string(resp.body) != c.body {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

func TestHTTPBodyWithoutEnd(t *testing.T) {
	address := rawServer(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := []byte("10000\r\n" + strings.Repeat("A", 1<<16) + "\r\n")
		for range 1 << 14 { // 1 GiB
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := clientOf(t, address).do(context.Background(), get("/"))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, errHTTPLarge) {
		t.Errorf("error %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d bytes were allocated for a body that is refused", grown)
	}
}

func TestHTTPDeadlines(t *testing.T) {
	hang := rawServer(t, func(c net.Conn) { time.Sleep(5 * time.Second) })
	drip := rawServer(t, func(c net.Conn) {
		for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	for name, address := range map[string]string{"hang": hang, "drip": drip} {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		began := time.Now()
		_, err := clientOf(t, address).do(ctx, get("/"))
		cancel()
		if err == nil || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
	}
}

func TestHTTPRefusedIsTheErrno(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	if _, err := clientOf(t, address).do(context.Background(), get("/")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v", err)
	}
}

func TestHTTPStaleConnectionIsReplaced(t *testing.T) {
	address := rawServer(t, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") })
	c := clientOf(t, address)
	for range 3 { // the server closes after each answer, without saying so
		if resp, err := c.do(context.Background(), get("/")); err != nil || string(resp.body) != "ok" {
			t.Fatalf("%+v, %v", resp, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func FuzzHTTP(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"HTTP/1.0 404 No\r\n\r\nall", "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\n"} {
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		in := bytes.NewReader(data)
		r := &httpReader{fill: func(p []byte) (int, error) {
			n, err := in.Read(p[:max(1, min(len(p), step))])
			if err == io.EOF {
				err = nil
			}
			return n, err
		}}
		resp, _, err := r.response()
		if err == nil && (len(resp.body) > maxHTTPBody || resp.status < 200 || resp.status > 999) {
			t.Errorf("status %d, %d bytes", resp.status, len(resp.body))
		}
	})
}
