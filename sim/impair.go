package sim

import (
	"fmt"
	"math/rand/v2"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Impair makes the VM's network a bad one, in both directions, as the queueing
// discipline netem does: shares are of 1, times in milliseconds.
type Impair struct {
	Loss      float64 `json:"loss"`
	Delay     float64 `json:"delay"`
	Jitter    float64 `json:"jitter"`    // the delay is so much more or less
	Duplicate float64 `json:"duplicate"` // of the frames that are not lost
	Reorder   float64 `json:"reorder"`   // of them, how many are not delayed
}

// relay carries frames between two interfaces of this network, with impairments.
// Both ends of the connection must compute their checksums themselves.
func relay(i *Impair, devices ...string) error {
	var fds [2]int
	for k, device := range devices {
		nic, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8&0xff | unix.ETH_P_ALL&0xff<<8
		if fds[k], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fds[k], &unix.SockaddrLinklayer{Protocol: all, Ifindex: nic.Index}); err != nil {
			return err
		}
		request := &unix.PacketMreq{Ifindex: int32(nic.Index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(fds[k], unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, request); err != nil {
			return err
		}
	}
	for k := range fds {
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := unix.Recvfrom(fds[k], buf, 0)
				if err == unix.EINTR || err == unix.ENETDOWN {
					continue
				}
				if err != nil {
					return
				}
				if l, is := from.(*unix.SockaddrLinklayer); is && l.Pkttype != unix.PACKET_OUTGOING {
					i.send(fds[1-k], append([]byte(nil), buf[:n]...))
				}
			}
		}()
	}
	return nil
}

func (i *Impair) send(fd int, frame []byte) {
	if rand.Float64() < i.Loss {
		return
	}
	copies := 1
	if rand.Float64() < i.Duplicate {
		copies = 2
	}
	for range copies {
		delay := i.Delay + i.Jitter*(2*rand.Float64()-1)
		if rand.Float64() < i.Reorder {
			delay = 0
		}
		time.AfterFunc(time.Duration(delay*float64(time.Millisecond)), func() { unix.Write(fd, frame) })
	}
}

// checksumInSoftware has the kernel fill in the checksums of what an interface
// sends, and cut it into frames: ethtool -K DEVICE tx off.
func checksumInSoftware(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const setTXChecksum = 0x17 // ETHTOOL_STXCSUM, include/uapi/linux/ethtool.h
	value := struct{ command, data uint32 }{setTXChecksum, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); no != 0 {
		return fmt.Errorf("checksums of %s: %w", device, no)
	}
	return nil
}
