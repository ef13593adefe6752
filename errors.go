package main

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// stepError is the one error type that leaves a step. The console line, the
// KVP row and the health description are all made from it.
type stepError struct {
	Step string // plan step; the plan fills it in
	Op   string // what was tried, as a verb: "open", "parse", "request lease"
	Path string // file, device, address or element; may be empty
	Err  error  // the cause
	Hint string // what to do about it; may be empty
}

// failure returns a stepError for an operation on a path. Its step is filled
// in by the plan.
func failure(op, path string, err error) error {
	return &stepError{Op: op, Path: path, Err: unwrapPath(err)}
}

// failureHint is failure with advice for the reader.
func failureHint(op, path string, err error, hint string) error {
	return &stepError{Op: op, Path: path, Err: unwrapPath(err), Hint: hint}
}

// Error is one line without the step: "op path: cause (hint)".
func (e *stepError) Error() string {
	s := e.Op
	if e.Path != "" {
		s += " " + e.Path
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *stepError) Unwrap() error { return e.Err }

// errnoOf returns the system error number that an error was caused by, or 0.
func errnoOf(err error) unix.Errno {
	var no unix.Errno
	if errors.As(err, &no) {
		return no
	}
	return 0
}

// unwrapPath drops the operation and path that package os puts before an errno:
// a stepError names its own.
func unwrapPath(err error) error {
	var inner error
	switch e := err.(type) {
	case *fs.PathError:
		inner = e.Err
	case *os.LinkError:
		inner = e.Err
	case *os.SyscallError:
		inner = e.Err
	default:
		return err
	}
	return inner
}
