package main

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The resend schedule: doubled from the first to the longest wait, each by a
// random tenth more or less (RFC 2131, 4.1, with shorter waits: the server is
// the host).
const (
	dhcpFirstWait   = 250 * time.Millisecond
	dhcpLongestWait = 8 * time.Second
	dhcpNakPause    = time.Second
	dhcpRequests    = 4 // REQUESTs to one offer before a new DISCOVER
	dhcpBroadcast   = 3 // from this try on answers are asked for by broadcast
)

// acquire gets a lease for an interface that is up. One that has a global IPv4
// address already is used as it is, without DHCP. The host name goes into the
// first packet; a domain behind it does not. It tries until ctx is done.
func (m *machine) acquire(ctx context.Context, l *link, hostName string) (*lease, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	addresses, err := r.addresses()
	r.close()
	if err != nil {
		return nil, err
	}
	if prefix := addresses[l.Index]; prefix.IsValid() {
		return &lease{Link: l, Configured: true, Prefix: prefix}, nil
	}
	d, err := openDHCP(l, hostName)
	if err != nil {
		return nil, err
	}
	defer d.close()
	nakPause := dhcpNakPause
	for {
		le, err := d.exchange(ctx)
		switch {
		case err == nil:
			return le, nil
		case errors.Is(err, errNak):
			m.log.note("lease", "the DHCP server refuses: "+d.nakText+"; starting over")
			if d.pause(ctx, nakPause); ctx.Err() == nil {
				nakPause = min(2*nakPause, dhcpLongestWait)
				continue
			}
		case errors.Is(err, errNoAck):
			continue
		}
		return nil, d.failure(err)
	}
}

var (
	errNak   = errors.New("the dhcp server refuses")
	errNoAck = errors.New("no answer to the request")
)

// dhcpClient is the state of an exchange on one interface.
type dhcpClient struct {
	link     *link
	hostName string // the first label, for option 12
	fqdn     string // the whole name if it has a domain, for option 81
	fd, udp  int    // -1: not open
	renewal  ipAddr // the server that a renewal is sent to alone; none: to all
	began    time.Time
	xid      uint32
	nakText  string
	// For the error: what was sent, what came.
	sent, offers, ignored int
	lastIgnored           string
}

func openDHCP(l *link, hostName string) (*dhcpClient, error) {
	host, _, _ := strings.Cut(hostName, ".")
	if host == "localhost" || !validDNSName(host) {
		host = ""
	}
	fqdn := ""
	if host != "" && host != hostName && validDNSName(hostName) {
		fqdn = hostName
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, failureHint("open", "packet socket", err, "the kernel needs CONFIG_PACKET, azprov needs root")
	}
	if err := setupDHCPSocket(fd, l.Index); err != nil {
		unix.Close(fd)
		return nil, failure("set up packet socket on", l.Name, err)
	}
	return &dhcpClient{link: l, hostName: host, fqdn: fqdn, fd: fd, udp: -1, began: time.Now()}, nil
}

// etherTypeIP is ETH_P_IP in network order.
const etherTypeIP = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8

// setupDHCPSocket lets only UDP to port 68 through, asks for the state of
// checksums, and binds to the interface.
func setupDHCPSocket(fd, index int) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jf: 4},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 68, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	// A kernel without filters only means more packets to ignore.
	unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)})
	unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: etherTypeIP, Ifindex: index})
}

// close gives the socket back. The kernel waits for a grace period of its own
// before it lets a packet socket go, some ten milliseconds: nobody has to wait with it.
func (d *dhcpClient) close() {
	if d.udp >= 0 {
		unix.Close(d.udp)
	}
	go unix.Close(d.fd)
}

func (d *dhcpClient) failure(err error) error {
	seen := sprintf("%s, %s %s: %d packets sent, %d offers, %d ignored", d.link.Name, d.link.Driver, d.link.MAC, d.sent, d.offers, d.ignored)
	if d.lastIgnored != "" {
		seen += ", the last for: " + d.lastIgnored
	}
	if d.nakText != "" {
		seen += "; refused: " + d.nakText
	}
	return failureHint("get a DHCP lease on", d.link.Name, err, seen)
}

// exchange is one DISCOVER, OFFER, REQUEST, ACK.
func (d *dhcpClient) exchange(ctx context.Context) (*lease, error) {
	d.xid = rand.Uint32()
	var offer *dhcpMessage
	for offer == nil {
		msg, err := d.ask(ctx, d.message(dhcpDiscover), addrFrom4([4]byte{}), 1<<30)
		if err != nil {
			return nil, err
		}
		d.offers++
		offer = msg
	}
	req := d.message(dhcpRequest)
	your := offer.Your.As4()
	req.Options[optRequestedIP] = your[:]
	req.Options[optServerID] = offer.Options[optServerID]
	ack, err := d.ask(ctx, req, addrFrom4([4]byte{}), dhcpRequests)
	if err != nil {
		return nil, err
	}
	if ack.kind() == dhcpNak {
		d.nakText = oneLine(string(ack.Options[optMessage]), 100)
		return nil, errNak
	}
	return ack.lease(d.link, d.hostName), nil
}

func (d *dhcpClient) message(kind byte) *dhcpMessage {
	msg := &dhcpMessage{Op: 1, XID: d.xid, MAC: d.link.MAC, Options: map[byte][]byte{
		optType: {kind}, optClientID: append([]byte{1}, d.link.MAC[:]...), optMaxSize: {maxDHCPSize >> 8, maxDHCPSize & 0xff},
		optVendorClass: []byte("azprov"), optParameters: dhcpParameters[:]}}
	if d.hostName != "" {
		msg.Options[optHostName] = []byte(d.hostName)
	}
	if d.fqdn != "" {
		msg.Options[optFQDN] = encodeFQDN(d.fqdn)
	}
	return msg
}

// ask sends a message, again and again, until a sound answer to it comes: an
// OFFER to a DISCOVER, an ACK or NAK to a REQUEST. After so many tries without
// one it ends with errNoAck.
func (d *dhcpClient) ask(ctx context.Context, msg *dhcpMessage, src ipAddr, tries int) (*dhcpMessage, error) {
	wait := dhcpFirstWait
	for try := 1; try <= tries; try++ {
		msg.Secs = uint16(min(time.Since(d.began)/time.Second, 0xffff))
		if try >= dhcpBroadcast {
			msg.Flags = 0x8000
		}
		if err := d.transmit(msg.encode(), src); err != nil {
			return nil, errorf("send: %w", err)
		}
		d.sent++
		jitter := wait/10 - rand.N(wait/5)
		end := time.Now().Add(wait + jitter)
		for {
			answer, err := d.receive(ctx, end)
			if errors.Is(err, unix.ETIMEDOUT) && ctx.Err() == nil {
				break
			}
			if err != nil {
				return nil, err
			}
			if why := d.unsound(msg, answer); why != "" {
				d.ignored++
				d.lastIgnored = why
				continue
			}
			return answer, nil
		}
		wait = min(2*wait, dhcpLongestWait)
	}
	return nil, errNoAck
}

// transmit sends a message to the server of a renewal alone, else to all. A link
// that is still coming up drops the packet: it is sent again.
func (d *dhcpClient) transmit(payload []byte, src ipAddr) error {
	if d.renewal.Is4() {
		if d.udp < 0 {
			d.udp = openRenewal(d.link.Name, src)
		}
		if d.udp >= 0 && unix.Sendto(d.udp, payload, 0, &unix.SockaddrInet4{Port: 67, Addr: d.renewal.As4()}) == nil {
			return nil
		}
	}
	packet := udpPacket(src, addrFrom4([4]byte{255, 255, 255, 255}), payload)
	to := &unix.SockaddrLinklayer{Protocol: etherTypeIP, Ifindex: d.link.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	err := unix.Sendto(d.fd, packet, 0, to)
	if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// openRenewal opens the socket of a renewal, which the kernel's routes lead to the
// server; -1 when it can't. Answers are read from the packet socket.
func openRenewal(device string, src ipAddr) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
	if unix.Bind(fd, &unix.SockaddrInet4{Port: 68, Addr: src.As4()}) != nil {
		unix.Close(fd)
		return -1
	}
	return fd
}

// unsound says why an answer is none to the message, "" when it is.
func (d *dhcpClient) unsound(msg, a *dhcpMessage) string {
	request := msg.kind() == dhcpRequest
	switch {
	case a == nil:
		return "broken packet or wrong checksum"
	case a.Op != 2:
		return "not a reply"
	case a.XID != d.xid:
		return "another xid"
	case a.MAC != d.link.MAC:
		return "another MAC address"
	case request && a.kind() == dhcpNak:
		return ""
	case request && a.kind() != dhcpAck || !request && a.kind() != dhcpOffer:
		return "another message type"
	case len(a.Options[optServerID]) != 4 && !request:
		return "no server id"
	case !usableAddress(a.Your):
		return "no usable address"
	}
	if _, ok := a.prefixLength(); !ok && request {
		return "no usable subnet mask"
	}
	return ""
}

func usableAddress(a ipAddr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] < 240
}

// receive waits for a packet until end; nil without error is one that can't be
// understood.
func (d *dhcpClient) receive(ctx context.Context, end time.Time) (*dhcpMessage, error) {
	buf := make([]byte, maxDHCPSize+64)
	oob := make([]byte, 128)
	for {
		n, oobn, _, _, err := unix.Recvmsg(d.fd, buf, oob, 0)
		switch {
		case err == nil:
			payload, err := udpPayload(buf[:n], 68, checksumOpen(oob[:oobn]))
			if err != nil {
				return nil, nil
			}
			msg, err := decodeDHCP(payload)
			if err != nil {
				return nil, nil
			}
			return msg, nil
		case errors.Is(err, unix.EAGAIN):
			if err := waitFD(ctx, d.fd, unix.POLLIN, time.Until(end)); err != nil {
				return nil, err
			}
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN):
			return nil, errorf("receive: %w", err)
		}
	}
}

// checksumOpen says whether the kernel knows that a packet's checksum has not
// been filled in yet, as on virtual switches of the same host (tpacket_auxdata,
// include/uapi/linux/if_packet.h: __u32 tp_status first).
func checksumOpen(oob []byte) bool {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, c := range list {
		if c.Header.Level == unix.SOL_PACKET && c.Header.Type == unix.PACKET_AUXDATA && len(c.Data) >= 4 {
			return binary.NativeEndian.Uint32(c.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}

// pause sleeps without outliving ctx.
func (d *dhcpClient) pause(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
