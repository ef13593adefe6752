package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlArg is an ioctl whose argument is a number and whose result counts.
func ioctlArg(fd int, request, arg uint) (int, error) {
	n, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	if no != 0 {
		return 0, no
	}
	return int(n), nil
}

// ioctlRange is an ioctl that takes the start and the length of a range (BLKDISCARD).
func ioctlRange(fd int, request uint, from, n int64) error {
	r := [2]uint64{uint64(from), uint64(n)}
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&r))); no != 0 {
		return no
	}
	return nil
}

// ioctlUint64 is an ioctl that fills a number (BLKGETSIZE64).
func ioctlUint64(fd int, request uint) (uint64, error) {
	var v uint64
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&v))); no != 0 {
		return 0, no
	}
	return v, nil
}

// ioctlBytes is an ioctl that takes a structure, laid out by the caller.
func ioctlBytes(fd int, request uint, b []byte) error {
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&b[0]))); no != 0 {
		return no
	}
	return nil
}
