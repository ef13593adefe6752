package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var errNoPartition = errors.New("the kernel does not show the partition")

// partitionName is the kernel's name of a partition: disk_name of block/partitions/core.c.
func partitionName(disk string, number int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		disk += "p"
	}
	return disk + strconv.Itoa(number)
}

// awaitNode waits until a device's node is there; what no one makes is made.
func (m *machine) awaitNode(sysDir, node string) error {
	want := deviceNumber(sysDir)
	there := func() (bool, error) {
		var st unix.Stat_t
		return want != 0 && unix.Stat(node, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == want, nil
	}
	err := awaitDevice(context.Background(), time.Second, there)
	if err == nil {
		return nil
	}
	if err := makeDeviceNode(sysDir, true, m.devfs); err != nil {
		return err
	}
	if ok, _ := there(); !ok {
		return failureHint("find device", node, unix.ENODEV, "the node is missing, or is another device's")
	}
	return nil
}

// blkpgPartition is struct blkpg_partition of include/uapi/linux/blkpg.h:
//
//	long long start, length; int pno; char devname[64], volname[64];
type blkpgPartition struct {
	start, length int64
	number        int32
	_             [2][64]byte
}

// blkpgArg is struct blkpg_ioctl_arg: int op, flags, datalen; void *data.
type blkpgArg struct {
	op, flags, length int32
	data              *blkpgPartition
}

const (
	blkpgAdd = 1 // BLKPG_ADD_PARTITION
	blkpgDel = 2
)

func blkpg(fd int, op int32, p blkpgPartition) error {
	arg := blkpgArg{op, 0, int32(unsafe.Sizeof(p)), &p}
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); no != 0 {
		return no
	}
	return nil
}

// showPartition has the kernel show the partition as it stands on the disk. A
// kernel that does not know GPT, or a disk that it does not scan, is told.
func (d *openedDisk) showPartition(ctx context.Context, sysDir string) error {
	p := d.view.part
	fd := int(d.f.Fd())
	right := func() bool {
		units := func(attr string) int64 { return sysNumber(sysDir+"/"+attr) * 512 }
		return units("start") == p.from && units("size") == p.size
	}
	if right() {
		return nil
	}
	var err error
	return errors.Join(awaitDevice(ctx, 5*time.Second, func() (bool, error) {
		// Busy is a partition that udev looks at just now.
		if err = unix.IoctlSetInt(fd, unix.BLKRRPART, 0); err == unix.EBUSY {
			return false, nil
		}
		if right() {
			err = nil
			return true, nil
		}
		for _, old := range listDir(filepath.Dir(sysDir)) {
			if n := sysNumber(old + "/partition"); n > 0 {
				if err = blkpg(fd, blkpgDel, blkpgPartition{number: int32(n)}); err == unix.EBUSY {
					return false, nil
				}
			}
		}
		err = blkpg(fd, blkpgAdd, blkpgPartition{start: p.from, length: p.size, number: int32(p.number)})
		if err == nil && !right() {
			err = errNoPartition
		}
		return true, nil
	}), err)
}

// sysNumber reads a number of sysfs; -1 when there is none.
func sysNumber(path string) int64 {
	n, err := strconv.ParseInt(sysAttr(path), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
