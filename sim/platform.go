package sim

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// The platform's two addresses, the same in every region.
const (
	WireServerAddress = "168.63.129.16"
	MetadataAddress   = "169.254.169.254"
)

// Platform is a host with its VMs.
type Platform struct {
	VMs    []*VM
	Log    *Log
	Faults *Faults

	// Switch changes the network of a VM that is given to a customer, as its kind
	// of pre-provisioned VM asks for; became is what it is from then on.
	Switch func(kind string, became *VM) error

	mu    sync.Mutex
	given map[*VM]int           // VMs that have left a pool, and how often they still ask too early
	names map[string]netip.Addr // by lower-case fully qualified name
	ready map[*VM]time.Time
}

// New returns a platform without requests yet.
func New(vms []*VM, log *Log, faults *Faults) *Platform {
	return &Platform{VMs: vms, Log: log, Faults: faults, names: map[string]netip.Addr{}, ready: map[*VM]time.Time{}, given: map[*VM]int{}}
}

// byMAC and byAddress find the VM that a packet comes from.
func (p *Platform) byMAC(mac net.HardwareAddr) *VM {
	for _, vm := range p.current() {
		if strings.EqualFold(vm.MAC, mac.String()) {
			return vm
		}
	}
	return nil
}

func (p *Platform) byAddress(remote string) *VM {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	for _, vm := range p.current() {
		if vm.address().Addr().String() == host {
			return vm
		}
	}
	return nil
}

// register makes a name known to DNS, as a DHCP request has published it.
func (p *Platform) register(vm *VM, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, a := range p.names {
		if a == vm.address().Addr() {
			delete(p.names, n)
		}
	}
	p.names[strings.ToLower(name+"."+vm.Domain)] = vm.address().Addr()
}

// nameOf is the name that DNS has for a VM, "" when there is none.
func (p *Platform) nameOf(vm *VM) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, a := range p.names {
		if a == vm.address().Addr() {
			return n
		}
	}
	return ""
}

// Serve runs all services until ctx is done: DHCP on the interfaces, HTTP and DNS
// on the platform's addresses, which one of them must hold.
func (p *Platform) Serve(ctx context.Context, devices ...string) error {
	var dhcp []*dhcpConn
	stop := func() {
		for _, c := range dhcp {
			c.Close()
		}
	}
	for _, device := range devices {
		c, err := p.listenDHCP(device)
		if err != nil {
			stop()
			return err
		}
		dhcp = append(dhcp, c)
	}
	dns, err := net.ListenPacket("udp4", WireServerAddress+":53")
	if err != nil {
		stop()
		return err
	}
	for _, c := range dhcp {
		go p.serveDHCP(c)
	}
	go p.serveDNS(dns)
	errs := make(chan error, 2)
	for service, handler := range map[string]http.HandlerFunc{"wire": p.wire, "imds": p.imds} {
		address := map[string]string{"wire": WireServerAddress, "imds": MetadataAddress}[service] + ":80"
		listen := func() (net.Listener, error) { return net.Listen("tcp4", address) }
		if wait := p.Faults.Refused(service); wait > 0 {
			time.AfterFunc(wait, func() {
				if l, err := listen(); err == nil {
					errs <- p.serveHTTP(ctx, l, service, handler)
				}
			})
			continue
		}
		l, err := listen()
		if err != nil {
			return err
		}
		go func() { errs <- p.serveHTTP(ctx, l, service, handler) }()
	}
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	stop()
	dns.Close()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

func (p *Platform) serveHTTP(ctx context.Context, l net.Listener, service string, handler http.HandlerFunc) error {
	s := &http.Server{Handler: p.logged(service, handler), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	return s.Serve(l)
}

// answer collects a handler's reply, so that faults can spoil it and the log
// knows it.
type answer struct {
	header http.Header
	status int
	body   []byte
	event  Event
}

func (a *answer) Header() http.Header { return a.header }
func (a *answer) WriteHeader(s int) {
	if a.status == 0 {
		a.status = s
	}
}
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.body = append(a.body, b...)
	return len(b), nil
}

// logged wraps a service: faults, reply, log.
func (p *Platform) logged(service string, handler http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		target := r.URL.RequestURI()
		a := &answer{header: http.Header{}, event: Event{Service: service, Method: r.Method, Path: target}}
		if vm := p.byAddress(r.RemoteAddr); vm != nil {
			a.event.VM = vm.Hostname
		}
		if f := p.Faults.hit(service, target); f != nil {
			a.event.Fault, a.event.Status = f.Action, f.Status
			p.Log.Add(a.event)
			spoil(w, r, f)
			return
		}
		handler(a, r)
		for k, v := range a.header {
			w.Header()[k] = v
		}
		if a.status == 0 {
			a.status = http.StatusOK
		}
		a.event.Status = a.status
		a.event.Took = float64(time.Since(began).Microseconds()) / 1000
		// The log line comes first: who reads it after an answer finds it.
		p.Log.Add(a.event)
		w.WriteHeader(a.status)
		w.Write(a.body)
	})
}

// spoil answers as a fault wants.
func spoil(w http.ResponseWriter, r *http.Request, f *Fault) {
	switch f.Action {
	case "status":
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		w.WriteHeader(f.Status)
		return
	case "redirect":
		w.Header().Set("Location", "http://"+MetadataAddress+"/elsewhere")
		w.WriteHeader(http.StatusFound)
		return
	case "garbage":
		w.Write([]byte("<GoalState><Incarnation>\x00\xff</wrong>"))
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	switch f.Action {
	case "reset":
		conn.(*net.TCPConn).SetLinger(0)
	case "hang":
		time.Sleep(10 * time.Minute)
	case "truncate":
		rw.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 4000\r\n\r\n<GoalState><Version>")
		rw.Flush()
	case "oversize":
		rw.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := "10000\r\n" + strings.Repeat("A", 0x10000) + "\r\n"
		for range 1 << 14 {
			if _, err := rw.WriteString(chunk); err != nil {
				return
			}
		}
	case "drip":
		pause := time.Second / time.Duration(max(f.BytesPerSecond, 1))
		for _, c := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat(" ", 100000)) {
			rw.WriteByte(c)
			if rw.Flush() != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}
