// Command program uses what a runtime needs function tables for: unwinding for
// panics, growing and scanning of stacks, asynchronous preemption, and calls made
// by package reflect. It prints what came of it.
package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"sync"
	"time"
)

type shape struct {
	name string
	side int
}

func (s *shape) Area(scale int) (string, int) { return s.name, s.side * s.side * scale }

//go:noinline
func deep(n int, words []string) int {
	var room [64]int
	room[n%64] = n
	if n == 0 {
		runtime.GC()
		return len(words)
	}
	return deep(n-1, append(words, fmt.Sprint(n))) + room[n%64] - n
}

//go:noinline
func index(list []int, i int) (v int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("recovered: %v", p)
		}
	}()
	return list[i], nil
}

//go:noinline
func deref(s *shape) (err error) {
	defer func() {
		var re runtime.Error
		if p, _ := recover().(error); errors.As(p, &re) {
			err = re
		}
	}()
	for i := range 3 {
		defer func() { _ = i }()
	}
	s.side++
	return nil
}

func boom(reason string) { panic(reason) }

func main() {
	if len(os.Args) > 1 {
		boom(os.Args[1])
	}
	fmt.Println("stacks", deep(5000, nil))
	_, err := index(make([]int, 3), 7)
	fmt.Println("bounds", err)
	fmt.Println("nil", deref(nil))

	area := reflect.ValueOf(&shape{"square", 4}).MethodByName("Area")
	out := area.Call([]reflect.Value{reflect.ValueOf(2)})
	fmt.Println("reflect", out[0], out[1])
	bound := area.Interface().(func(int) (string, int)) // reflect.methodValueCall
	made := reflect.MakeFunc(reflect.TypeFor[func(string) string](), func(args []reflect.Value) []reflect.Value {
		deep(500, nil)
		return []reflect.Value{reflect.ValueOf(args[0].String() + "!")}
	}).Interface().(func(string) string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if name, n := bound(3); name != "square" || n != 48 || made("made") != "made!" {
					panic("wrong result of a made function")
				}
			}
		})
	}
	wg.Wait()

	runtime.GOMAXPROCS(1)
	stop, count := false, 0
	go func() {
		for !stop { // no call: only a signal can preempt it
			count++
		}
	}()
	time.Sleep(20 * time.Millisecond)
	runtime.GC()
	stop = true
	fmt.Println("preempted")
}
