package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

var le = binary.LittleEndian

// tableMagic is CurrentPCLnTabMagic of Go 1.20 to 1.26 (internal/abi/symtab.go).
const tableMagic = 0xfffffff1

// Indexes of pcdata and funcdata that a running program reads, from
// internal/abi/symtab.go. ArgLiveIndex (3), ArgInfo (5) and ArgLiveInfo (6) are
// for printing arguments; InlTreeIndex (2) is of no use without InlTree.
const (
	pcdataArgLiveIndex  = 3
	pcdataMax           = 5
	funcdataArgInfo     = 5
	funcdataArgLiveInfo = 6
	funcdataMax         = 8

	noFuncdata = ^uint32(0)
)

// headerSize is that of runtime.pcHeader with 8-byte words: magic, two zero bytes,
// minLC, ptrSize, nfunc, nfiles, an unused word, and five offsets.
const headerSize = 72

// table is a parsed .gopclntab section. Its parts follow the header in the order
// of the fields; behind the functions come the funcdata (go:func.*) and findfunctab,
// 20 bytes for every 4096 bytes of code, which hold indexes into functab
// (runtime/symtab.go, findfuncbucket).
type table struct {
	data    []byte
	names   []byte // NUL-terminated
	cutab   []byte
	filetab []byte
	pctab   []byte
	pcln    []byte // functab, and the functions that it points to
	gofunc  uint64 // where the funcdata start
	find    uint64 // where findfunctab starts
	nfunc   int
	funcs   []function
	end     uint32 // entry offset behind the last function
}

// function is runtime._func. What it points to is copied out.
type function struct {
	fixed    [44]byte
	name     string
	pcsp     []byte
	pcdata   [][]byte // nil: no table
	funcdata []funcdata
}

// funcdata is what a function's funcdata offset points to, up to where the next
// one starts; nil when the function has none of a kind.
type funcdata struct {
	off   uint32
	bytes []byte
}

// word is one of the header's words: 0 is the number of functions, 3 to 7 are
// the offsets of the parts.
func (t *table) word(i int) uint64 { return le.Uint64(t.data[8+8*i:]) }

// parseHeader finds the parts of a table; its functions are not read.
func parseHeader(data []byte) (*table, error) {
	if len(data) < headerSize || le.Uint32(data) != tableMagic || data[4] != 0 || data[5] != 0 || data[7] != 8 {
		return nil, fmt.Errorf("no function table of Go 1.20 to 1.26: %w", errLayout)
	}
	t := &table{data: data}
	offsets := []uint64{t.word(3), t.word(4), t.word(5), t.word(6), t.word(7), uint64(len(data))}
	if offsets[0] < headerSize || !slices.IsSorted(offsets) || t.word(0) > uint64(len(data))/8 {
		return nil, fmt.Errorf("parts of the function table out of order: %w", errLayout)
	}
	t.nfunc = int(t.word(0))
	for i, part := range []*[]byte{&t.names, &t.cutab, &t.filetab, &t.pctab, &t.pcln} {
		*part = data[offsets[i]:offsets[i+1]]
	}
	return t, nil
}

// parse reads the functions of a table whose gofunc and find are known.
func (t *table) parse(data []byte) error {
	start, all := t.word(7), uint64(len(data))
	if t.gofunc < start || t.gofunc > t.find || t.find > all || t.gofunc-start < uint64(8*t.nfunc+4) {
		return fmt.Errorf("funcdata and findfunctab are not behind the functions: %w", errLayout)
	}
	t.pcln = data[start:t.gofunc]
	t.end = le.Uint32(t.pcln[8*t.nfunc:])
	if all-t.find < uint64(t.end)/4096*20 {
		return fmt.Errorf("findfunctab is too short: %w", errLayout)
	}
	for i := range t.nfunc {
		fn, err := t.function(le.Uint32(t.pcln[8*i+4:]))
		if err != nil {
			return err
		}
		if le.Uint32(fn.fixed[0:]) != le.Uint32(t.pcln[8*i:]) {
			return fmt.Errorf("function %d starts elsewhere than its entry says: %w", i, errLayout)
		}
		t.funcs = append(t.funcs, fn)
	}
	return t.fillFuncdata(data[t.gofunc:t.find])
}

// fillFuncdata gives every function's funcdata their bytes.
func (t *table) fillFuncdata(data []byte) error {
	starts := []uint32{uint32(len(data))}
	for i := range t.funcs {
		for _, d := range t.funcs[i].funcdata {
			if d.off != noFuncdata {
				starts = append(starts, d.off)
			}
		}
	}
	slices.Sort(starts)
	if starts[len(starts)-1] > uint32(len(data)) {
		return fmt.Errorf("funcdata out of bounds: %w", errLayout)
	}
	starts = slices.Compact(starts)
	for i := range t.funcs {
		for j := range t.funcs[i].funcdata {
			d := &t.funcs[i].funcdata[j]
			if d.off == noFuncdata || int(d.off) == len(data) {
				continue
			}
			k, _ := slices.BinarySearch(starts, d.off)
			d.bytes = data[d.off:starts[k+1]]
		}
	}
	return nil
}

// Offsets in runtime._func (runtime/runtime2.go).
const (
	offName      = 4
	offPCSP      = 16
	offPCFile    = 20
	offPCLn      = 24
	offNPCData   = 28
	offCU        = 32
	offStartLine = 36
	offNFuncData = 43
)

func (t *table) function(off uint32) (function, error) {
	var fn function
	bad := fmt.Errorf("a function out of bounds: %w", errLayout)
	if uint64(off)+44 > uint64(len(t.pcln)) {
		return fn, bad
	}
	b := t.pcln[off:]
	copy(fn.fixed[:], b)
	npc, nfd := int(le.Uint32(b[offNPCData:])), int(b[offNFuncData])
	if npc > pcdataMax || nfd > funcdataMax {
		return fn, fmt.Errorf("a function with %d pcdata and %d funcdata: %w", npc, nfd, errLayout)
	}
	if len(b) < 44+4*(npc+nfd) {
		return fn, bad
	}
	name := le.Uint32(b[offName:])
	if uint64(name) >= uint64(len(t.names)) {
		return fn, bad
	}
	fn.name, _, _ = strings.Cut(string(t.names[name:min(len(t.names), int(name)+4096)]), "\x00")
	var err error
	if fn.pcsp, err = t.values(le.Uint32(b[offPCSP:])); err != nil {
		return fn, err
	}
	for i := range npc {
		v, err := t.values(le.Uint32(b[44+4*i:]))
		if err != nil {
			return fn, err
		}
		fn.pcdata = append(fn.pcdata, v)
	}
	for i := range nfd {
		fn.funcdata = append(fn.funcdata, funcdata{off: le.Uint32(b[44+4*(npc+i):])})
	}
	return fn, nil
}

// values returns the pc-value table at an offset: pairs of varints, a value's
// difference (zigzag; 0 ends the table but in its first pair) and a pc's.
func (t *table) values(off uint32) ([]byte, error) {
	if off == 0 {
		return nil, nil
	}
	bad := fmt.Errorf("a pc-value table out of bounds: %w", errLayout)
	if uint64(off) >= uint64(len(t.pctab)) {
		return nil, bad
	}
	b := t.pctab[off:]
	for p, first := 0, true; ; first = false {
		value, n := binary.Uvarint(b[p:])
		if n <= 0 {
			return nil, bad
		}
		p += n
		if value == 0 && !first {
			return b[:p], nil
		}
		_, n = binary.Uvarint(b[p:])
		if n <= 0 {
			return nil, bad
		}
		p += n
	}
}

// keptName is what remains of a function's name. The runtime decides by names
// too: by the prefixes runtime., internal/runtime/ and reflect. (preempt.go,
// panic.go, traceback.go) and two whole names of package reflect (stkframe.go).
func keptName(name string) string {
	switch {
	case strings.HasPrefix(name, "main."), strings.HasPrefix(name, "reflect."):
		return name
	case strings.HasPrefix(name, "type:"):
		return "type:."
	}
	slash := strings.LastIndexByte(name[:len(name)-len(afterPath(name))], '/')
	dot := strings.IndexByte(name[slash+1:], '.')
	if dot < 0 {
		return name
	}
	return name[:slash+1+dot+1]
}

// afterPath is a name from its type arguments or receiver on, which may hold
// slashes of their own.
func afterPath(name string) string {
	if i := strings.IndexAny(name, "[("); i >= 0 {
		return name[i:]
	}
	return ""
}

// keep says which of a function's data stay.
func (fn *function) keep() (pcdata [][]byte, data []funcdata) {
	pcdata, data = slices.Clone(fn.pcdata), slices.Clone(fn.funcdata)
	if len(pcdata) > pcdataArgLiveIndex {
		pcdata[pcdataArgLiveIndex] = nil
	}
	for _, i := range []int{funcdataArgInfo, funcdataArgLiveInfo} {
		if len(data) > i {
			data[i] = funcdata{off: noFuncdata}
		}
	}
	for len(pcdata) > 0 && pcdata[len(pcdata)-1] == nil {
		pcdata = pcdata[:len(pcdata)-1]
	}
	for len(data) > 0 && data[len(data)-1].off == noFuncdata {
		data = data[:len(data)-1]
	}
	return pcdata, data
}

// pool holds each of many byte strings once, at places that are the same modulo
// step as where the string stood before.
type pool struct {
	step uint32
	data []byte
	at   map[string]uint32
}

func newPool(step uint32) *pool { return &pool{step: step, at: map[string]uint32{}} }

// add returns the place of b, which stood at old.
func (p *pool) add(b []byte, old uint32) uint32 {
	key := string(b) + string(rune(old%p.step))
	off, known := p.at[key]
	if !known {
		for uint32(len(p.data))%p.step != old%p.step {
			p.data = append(p.data, 0)
		}
		off = uint32(len(p.data))
		p.at[key] = off
		p.data = append(p.data, b...)
	}
	return off
}

// rewrite makes the table anew without what only tracebacks print.
func (t *table) rewrite() (*table, error) {
	names, tables, data := newPool(1), newPool(1), newPool(8)
	tables.add([]byte{0}, 0) // offset 0 means no table
	values := func(b []byte) uint32 {
		if b == nil {
			return 0
		}
		return tables.add(b, 0)
	}
	functab := make([]byte, 8*len(t.funcs)+4)
	le.PutUint32(functab[8*len(t.funcs):], t.end)
	pcln := functab
	for i := range t.funcs {
		fn := &t.funcs[i]
		pcs, funcs := fn.keep()
		b := fn.fixed
		le.PutUint32(b[offName:], names.add([]byte(keptName(fn.name)+"\x00"), 0))
		le.PutUint32(b[offPCSP:], values(fn.pcsp))
		le.PutUint32(b[offPCFile:], 0)
		le.PutUint32(b[offPCLn:], 0)
		le.PutUint32(b[offNPCData:], uint32(len(pcs)))
		le.PutUint32(b[offCU:], 0)
		le.PutUint32(b[offStartLine:], 0)
		b[offNFuncData] = byte(len(funcs))
		copy(pcln[8*i:], b[:4])
		le.PutUint32(pcln[8*i+4:], uint32(len(pcln)))
		pcln = append(pcln, b[:]...)
		for _, v := range pcs {
			pcln = le.AppendUint32(pcln, values(v))
		}
		for _, v := range funcs {
			off := noFuncdata
			if v.off != noFuncdata {
				off = data.add(v.bytes, v.off)
			}
			pcln = le.AppendUint32(pcln, off)
		}
	}
	header := slices.Clone(t.data[:headerSize])
	le.PutUint64(header[16:], 0) // files
	parts := [][]byte{header, names.data, nil, nil, tables.data, pcln, data.data, t.data[t.find:]}
	var out []byte
	var offsets []uint64
	for _, part := range parts {
		out = append(out, make([]byte, -len(out)&31)...)
		offsets = append(offsets, uint64(len(out)))
		out = append(out, part...)
	}
	for i, off := range offsets[1:6] {
		le.PutUint64(out[32+8*i:], off)
	}
	n, err := parseHeader(out)
	if err != nil {
		return nil, err
	}
	n.gofunc, n.find = offsets[6], offsets[7]
	return n, n.parse(out)
}

// sameAs checks that every function has in t what a running program reads of it in old.
func (t *table) sameAs(old *table) error {
	if len(t.funcs) != len(old.funcs) || t.end != old.end || !bytes.Equal(t.data[t.find:], old.data[old.find:]) {
		return errors.New("another number of functions")
	}
	for i := range t.funcs {
		a, b := &t.funcs[i], &old.funcs[i]
		pcdata, funcs := b.keep()
		x, y := a.fixed, b.fixed
		for _, zero := range [][2]int{{offName, 4}, {offPCSP, 12}, {offNPCData, 12}, {offNFuncData, 1}} {
			clear(x[zero[0] : zero[0]+zero[1]])
			clear(y[zero[0] : zero[0]+zero[1]])
		}
		if x != y || !bytes.Equal(a.pcsp, b.pcsp) || a.name != keptName(b.name) ||
			!slices.EqualFunc(a.pcdata, pcdata, func(v, w []byte) bool { return bytes.Equal(v, w) && (v == nil) == (w == nil) }) ||
			!slices.EqualFunc(a.funcdata, funcs, func(v, w funcdata) bool {
				return (v.off == noFuncdata) == (w.off == noFuncdata) && bytes.HasPrefix(v.bytes, w.bytes)
			}) {
			return fmt.Errorf("function %d (%s) differs", i, b.name)
		}
	}
	return nil
}
