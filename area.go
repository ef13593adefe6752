package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// area is the part of a block device or image file that is formatted: a store.
type area struct {
	f    *os.File
	from int64 // where it starts on the device
}

// maxIOV is UIO_MAXIOV of the kernel.
const maxIOV = 1024

func (a *area) writev(off int64, bufs ...[]byte) error {
	for len(bufs) > 0 {
		n, err := unix.Pwritev(int(a.f.Fd()), bufs[:min(len(bufs), maxIOV)], a.from+off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("nothing was written")
		}
		off += int64(n)
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		if n > 0 {
			bufs = append([][]byte{bufs[0][n:]}, bufs[1:]...)
		}
	}
	return nil
}

func (a *area) sync() error {
	err := unix.Fsync(int(a.f.Fd()))
	for err == unix.EINTR {
		err = unix.Fsync(int(a.f.Fd()))
	}
	return err
}

func (a *area) writeSync(off int64, b []byte) error {
	if err := a.writev(off, b); err != nil {
		return err
	}
	return a.sync()
}

// discard is BLKDISCARD of a device, and a hole in a file.
func (a *area) discard(off, n int64) error {
	if info, err := a.f.Stat(); err != nil || info.Mode().IsRegular() {
		return unix.Fallocate(int(a.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, a.from+off, n)
	}
	return ioctlRange(int(a.f.Fd()), unix.BLKDISCARD, a.from+off, n)
}
