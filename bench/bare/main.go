// Command bare does the least that makes a VM Ready: one DHCP exchange, the
// address and routes of the lease, the goal state, and one health report. It
// applies nothing, keeps nothing, retries nothing. The benchmark measures
// azprov, which does all of its work, against it.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run("eth0"); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return err
	}
	// A packet that is sent before the link runs is lost.
	for i := 0; i < 1000 && ifr.Uint16()&unix.IFF_RUNNING == 0; i++ {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		if ifr.Uint16()&unix.IFF_RUNNING == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	nic, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	packets, to, err := packetSocket(nic)
	if err != nil {
		return err
	}
	offer, err := exchange(packets, to, nic, 1, nil)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	ack, err := exchange(packets, to, nic, 3, offer)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := configure(fd, name, nic.Index, ack); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return report()
}

// lease is the part of an answer that is used.
type lease struct {
	address [4]byte
	options map[byte][]byte
}

// packetSocket opens the socket for DHCP. It stays open until the program ends,
// since to close it takes the kernel a grace period.
func packetSocket(nic *net.Interface) (int, *unix.SockaddrLinklayer, error) {
	const proto = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, err
	}
	to := &unix.SockaddrLinklayer{Protocol: proto, Ifindex: nic.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	return fd, to, unix.Bind(fd, to)
}

// exchange sends a DHCP message of a type and waits for its answer.
func exchange(fd int, to *unix.SockaddrLinklayer, nic *net.Interface, kind byte, offer *lease) (*lease, error) {
	b := make([]byte, 240, 300)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], "bare")
	copy(b[28:], nic.HardwareAddr)
	copy(b[236:], "\x63\x82\x53\x63")
	b = append(b, 53, 1, kind)
	if offer != nil {
		b = append(append(b, 50, 4), offer.address[:]...)
		b = append(append(b, 54, 4), offer.options[54]...)
	}
	b = append(b, 55, 4, 1, 3, 121, 245, 255)
	for len(b) < 300 {
		b = append(b, 0)
	}
	if err := unix.Sendto(fd, frame(b), 0, to); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return nil, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		if n > 268 && buf[9] == 17 && buf[23] == 68 && bytes.Equal(buf[32:36], []byte("bare")) {
			return parse(buf[28:n]), nil
		}
	}
}

// frame puts UDP and IP headers before a BOOTP message.
func frame(b []byte) []byte {
	h := make([]byte, 28, 28+len(b))
	h[0], h[8], h[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(h[2:], uint16(28+len(b)))
	copy(h[16:], "\xff\xff\xff\xff")
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	h[21], h[23] = 68, 67
	binary.BigEndian.PutUint16(h[24:], uint16(8+len(b)))
	return append(h, b...)
}

func parse(b []byte) *lease {
	l := &lease{options: map[byte][]byte{}}
	copy(l.address[:], b[16:20])
	for o := b[240:]; len(o) > 1 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		n := min(int(o[1]), len(o)-2)
		l.options[o[0]] = o[2 : 2+n]
		o = o[2+n:]
	}
	return l
}

// configure sets address, mask and default route by the old ioctls.
func configure(fd int, name string, index int, l *lease) error {
	set := func(request uint, value []byte) error {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(value); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, request, ifr)
	}
	if err := set(unix.SIOCSIFADDR, l.address[:]); err != nil {
		return err
	}
	if err := set(unix.SIOCSIFNETMASK, l.options[1]); err != nil {
		return err
	}
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(nl)
	// RTM_NEWROUTE: nlmsghdr, rtmsg, RTA_GATEWAY, RTA_OIF.
	m := make([]byte, 44)
	binary.NativeEndian.PutUint32(m[0:], 44)
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_NEWROUTE)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	m[16], m[20], m[21], m[23] = unix.AF_INET, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RTN_UNICAST
	binary.NativeEndian.PutUint16(m[28:], 8)
	binary.NativeEndian.PutUint16(m[30:], unix.RTA_GATEWAY)
	copy(m[32:], l.options[3])
	binary.NativeEndian.PutUint16(m[36:], 8)
	binary.NativeEndian.PutUint16(m[38:], unix.RTA_OIF)
	binary.NativeEndian.PutUint32(m[40:], uint32(index))
	if err := unix.Sendto(nl, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	ack := make([]byte, 512)
	n, _, err := unix.Recvfrom(nl, ack, 0)
	if err != nil || n < 20 {
		return fmt.Errorf("no answer from netlink: %w", err)
	}
	if code := int32(binary.NativeEndian.Uint32(ack[16:])); code != 0 && code != -int32(unix.EEXIST) {
		return unix.Errno(-code)
	}
	return nil
}

// report fetches the goal state and posts Ready.
func report() error {
	gs, err := request("GET /machine/?comp=goalstate HTTP/1.1\r\n", "")
	if err != nil {
		return fmt.Errorf("goal state: %w", err)
	}
	body := "<?xml version=\"1.0\" encoding=\"utf-8\"?><Health xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">" +
		"<GoalStateIncarnation>" + between(gs, "Incarnation") + "</GoalStateIncarnation><Container><ContainerId>" + between(gs, "ContainerId") +
		"</ContainerId><RoleInstanceList><Role><InstanceId>" + between(gs, "InstanceId") + "</InstanceId><Health><State>Ready</State></Health></Role></RoleInstanceList></Container></Health>"
	if _, err := request("POST /machine?comp=health HTTP/1.1\r\n", body); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	return nil
}

func between(doc, element string) string {
	_, rest, _ := strings.Cut(doc, "<"+element+">")
	text, _, _ := strings.Cut(rest, "</"+element+">")
	return text
}

func request(line, body string) (string, error) {
	conn, err := net.DialTimeout("tcp", "168.63.129.16:80", 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	head := line + "Host: 168.63.129.16\r\nx-ms-version: 2012-11-30\r\nx-ms-agent-name: WALinuxAgent\r\nConnection: close\r\n"
	if body != "" {
		head += fmt.Sprintf("Content-Type: text/xml; charset=utf-8\r\nContent-Length: %d\r\n", len(body))
	}
	if _, err := io.WriteString(conn, head+"\r\n"+body); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil {
		return "", err
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 2")) {
		return "", fmt.Errorf("answer %.40q", answer)
	}
	return string(answer), nil
}
