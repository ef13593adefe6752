package main

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	swapName = "swapfile"
	// swapLeaves is what a swap file leaves of the disk's free space.
	swapLeaves = 16 << 20
)

// swapHeader is the first page of a swap area: union swap_header of
// include/linux/swap.h, version u32 at 1024, last page u32 1028, bad pages u32
// 1032, UUID 1036, label 1052, magic in the last 10 bytes.
func swapHeader(page int, size int64) ([]byte, error) {
	b := make([]byte, page)
	binary.NativeEndian.PutUint32(b[1024:], 1)
	binary.NativeEndian.PutUint32(b[1028:], uint32(size/int64(page)-1))
	if err := randomBytes(b[1036:1052]); err != nil {
		return nil, err
	}
	copy(b[page-10:], "SWAPSPACE2")
	return b, nil
}

// swapFile makes the swap file of the wanted size, unless it is there, and has the
// kernel use it. dir is where root is.
func (m *machine) swapFile(root *rootDir, dir string) (string, error) {
	page := int64(os.Getpagesize())
	size := m.cfg.Swap / page * page
	shown := m.cfg.ResourceMount + "/" + swapName
	path := filepath.Join(dir, swapName)
	if size < 10*page || size/page > 1<<32-1 {
		return "", failure("make swap file", shown, errorf("%d bytes are no size for swap", m.cfg.Swap))
	}
	text := "swap " + sizeText(size)
	info, err := root.lstat(swapName)
	exists := err == nil
	if exists {
		if !info.Mode().IsRegular() {
			return "", failure("make swap file", shown, errors.New("something else stands there"))
		}
		used := m.swapUsed(info)
		if used && info.Size() == size {
			return text, nil
		}
		if used {
			if err := swapSyscall(unix.SYS_SWAPOFF, path); err != nil {
				return "", failure("stop swapping to", shown, err)
			}
		}
		// What a cut-off run left is made again.
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 && info.Size() == size && info.Mode().Perm() == 0o600 {
			if err := swapSyscall(unix.SYS_SWAPON, path); err == nil || err == unix.EBUSY {
				return text, nil
			}
		}
		if err := root.remove(swapName); err != nil {
			return "", failure("remove", shown, err)
		}
	}
	if err := makeSwap(root, page, size, shown, false); err != nil {
		return "", err
	}
	err = swapSyscall(unix.SYS_SWAPON, path)
	if err == unix.EINVAL {
		// A file system whose allocated but unwritten blocks are holes to swapon.
		_ = root.remove(swapName)
		if err := makeSwap(root, page, size, shown, true); err != nil {
			return "", err
		}
		err = swapSyscall(unix.SYS_SWAPON, path)
	}
	if err != nil {
		_ = root.remove(swapName)
		return "", failureHint("swap to", shown, err, "does this kernel have swap?")
	}
	return text, nil
}

// makeSwap makes the file with all its blocks and the header; with fill every
// block is written.
func makeSwap(root *rootDir, page, size int64, shown string, fill bool) error {
	f, err := root.openFile(swapName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failure("create", shown, err)
	}
	defer f.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil && int64(fs.Bavail)*int64(fs.Bsize) < size+swapLeaves {
		_ = root.remove(swapName)
		return failureHint("make swap file", shown, unix.ENOSPC, sizeText(int64(fs.Bavail)*int64(fs.Bsize))+" are free")
	}
	header, err := swapHeader(int(page), size)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if fill || err == unix.EOPNOTSUPP {
		zeros := make([]byte, 1<<20)
		err = nil
		for off := int64(0); off < size && err == nil; off += int64(len(zeros)) {
			_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		}
	}
	if err == nil {
		_, err = f.WriteAt(header, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = root.remove(swapName)
		return failure("make swap file", shown, err)
	}
	return nil
}

// swapUsed says whether the kernel swaps to a file, under whatever name.
func (m *machine) swapUsed(info os.FileInfo) bool {
	data, _ := os.ReadFile(m.proc("swaps"))
	for _, line := range strings.Split(string(data), "\n") {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "\t")
		if other, err := os.Stat(name); err == nil && os.SameFile(info, other) {
			return true
		}
	}
	return false
}

// swapSyscall is swapon(2) without flags, or swapoff(2).
func swapSyscall(number uintptr, path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, no := unix.Syscall(number, uintptr(unsafe.Pointer(p)), 0, 0); no != 0 {
		return no
	}
	return nil
}
