// Command bare does the least that makes a VM Ready: one DHCP exchange, the
// address and default route of the lease, the goal state, and one health report,
// written the ordinary way with net/http and encoding/xml. It applies nothing,
// keeps nothing, retries nothing. The benchmark measures
// azprov, which does all of its work, against it.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
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
		if err == unix.EINTR {
			continue
		}
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
	nl, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer nl.Close()
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.RTA_GATEWAY, l.options[3])
	ae.Uint32(unix.RTA_OIF, uint32(index))
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	rtmsg := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
	_, err = nl.Execute(netlink.Message{Header: netlink.Header{Type: unix.RTM_NEWROUTE, Flags: netlink.Request | netlink.Acknowledge | netlink.Create}, Data: append(rtmsg, attrs...)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// report fetches the goal state and posts Ready.
func report() error {
	gs, err := request("GET", "http://168.63.129.16/machine/?comp=goalstate", "")
	if err != nil {
		return fmt.Errorf("goal state: %w", err)
	}
	var doc struct {
		Incarnation string
		ContainerID string `xml:"Container>ContainerId"`
		InstanceID  string `xml:"Container>RoleInstanceList>RoleInstance>InstanceId"`
	}
	if err := xml.Unmarshal(gs, &doc); err != nil {
		return fmt.Errorf("goal state: %w", err)
	}
	body := xml.Header + "<Health><GoalStateIncarnation>" + doc.Incarnation + "</GoalStateIncarnation><Container><ContainerId>" + doc.ContainerID +
		"</ContainerId><RoleInstanceList><Role><InstanceId>" + doc.InstanceID + "</InstanceId><Health><State>Ready</State></Health></Role></RoleInstanceList></Container></Health>"
	if _, err := request("POST", "http://168.63.129.16/machine?comp=health", body); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	return nil
}

func request(method, url, body string) ([]byte, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("x-ms-version", "2012-11-30")
	req.Header.Set("x-ms-agent-name", "WALinuxAgent")
	req.Header.Set("Content-Type", "text/xml; charset=utf-8")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode/100 != 2 {
		err = errors.New(resp.Status)
	}
	return answer, err
}
