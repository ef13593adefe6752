//go:build mkext4

// Command mkext4 formats a file or device as azprov formats a resource disk:
// marker first, then the file system. It is built from azprov's own files, which
// bench/format.go lays over this folder, and exists to be measured.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := format(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "mkext4:", err)
		os.Exit(1)
	}
}

func format(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	o, err := newExt4Options(size, 512, "AzureEphmDsk", time.Now())
	if err != nil {
		return err
	}
	w := &area{f: f}
	if err := w.writeSync(0, formatMarker(size, 0)); err != nil {
		return err
	}
	return formatExt4(context.Background(), w, o)
}

// randomBytes is azprov's (crypt.go), which stands beside much else.
func randomBytes(b []byte) error {
	_, err := unix.Getrandom(b, 0)
	return err
}
