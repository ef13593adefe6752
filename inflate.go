package main

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
)

// stream is a buffered reader that can look ahead.
type stream struct {
	r        io.Reader
	buf      [8192]byte
	pos, end int
	err      error
}

// fill makes n bytes available, if the input has as many; n is at most 4096.
func (s *stream) fill(n int) bool {
	for s.end-s.pos < n && s.err == nil {
		if s.pos > 0 {
			copy(s.buf[:], s.buf[s.pos:s.end])
			s.end -= s.pos
			s.pos = 0
		}
		var got int
		got, s.err = s.r.Read(s.buf[s.end:])
		s.end += got
	}
	return s.end-s.pos >= n
}

// peek returns the next n bytes, fewer at the end, without taking them.
func (s *stream) peek(n int) []byte {
	s.fill(n)
	return s.buf[s.pos:min(s.end, s.pos+n)]
}

// skip takes n bytes and says whether there were as many.
func (s *stream) skip(n int64) bool {
	for n > 0 && s.fill(1) {
		step := min(n, int64(s.end-s.pos))
		s.pos += int(step)
		n -= step
	}
	return n == 0
}

// find takes all up to and with a mark, of at most 64 bytes, and says whether it
// was there.
func (s *stream) find(mark string) bool {
	for s.fill(len(mark)) {
		if i := bytes.Index(s.buf[s.pos:s.end], []byte(mark)); i >= 0 {
			s.pos += i + len(mark)
			return true
		}
		s.pos = s.end - len(mark) + 1
	}
	return false
}

// inflater unpacks one gzip member (RFC 1952) from a stream, which is left right
// behind it. It holds no more than the window of 32 KiB. The algorithm is that of
// RFC 1951, decoding bit by bit.
type inflater struct {
	s          *stream
	bits, have uint32 // bits that were taken from the stream and are not used yet
	window     []byte // 32 KiB
	total      uint32 // bytes so far; the length field of gzip wraps as this does
	long       bool   // more than a window
	sum        uint32
	mode       int
	last       bool // this block is the last one
	left       int  // bytes of a stored block, or of a match
	distance   uint32
	lengths    huffman
	distances  huffman
	err        error
}

// What the inflater does next.
const (
	inHeader = iota
	inBlock
	inStored
	inCodes
	inMatch
	inTrailer
)

var errInflate = errors.New("broken gzip data")

func newInflater(s *stream) *inflater { return &inflater{s: s, window: make([]byte, 1<<15)} }

func (z *inflater) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) && z.err == nil {
		switch z.mode {
		case inHeader:
			z.header()
		case inBlock:
			z.block()
		case inStored:
			if !z.s.fill(1) {
				z.fail()
				break
			}
			p[n] = z.s.buf[z.s.pos]
			z.s.pos++
			z.put(p[n])
			n++
			if z.left--; z.left == 0 {
				z.mode = inBlock
			}
		case inCodes:
			switch symbol := z.decode(&z.lengths); {
			case z.err != nil:
			case symbol < 256:
				p[n] = byte(symbol)
				z.put(p[n])
				n++
			case symbol == 256:
				z.mode = inBlock
			default:
				z.match(symbol - 257)
			}
		case inMatch:
			p[n] = z.window[(z.total-z.distance)%uint32(len(z.window))]
			z.put(p[n])
			n++
			if z.left--; z.left == 0 {
				z.mode = inCodes
			}
		case inTrailer:
			z.trailer(p[:n])
			return n, z.err
		}
	}
	z.sum = crc32.Update(z.sum, crc32.IEEETable, p[:n])
	if n > 0 {
		return n, nil
	}
	return 0, z.err
}

func (z *inflater) fail() {
	if z.err == nil {
		z.err = errInflate
	}
}

func (z *inflater) put(b byte) {
	z.window[z.total%uint32(len(z.window))] = b
	z.total++
	z.long = z.long || z.total >= uint32(len(z.window))
}

// take returns the next n bits, at most 16.
func (z *inflater) take(n uint32) uint32 {
	for z.have < n {
		if !z.s.fill(1) {
			z.fail()
			return 0
		}
		z.bits |= uint32(z.s.buf[z.s.pos]) << z.have
		z.s.pos++
		z.have += 8
	}
	v := z.bits & (1<<n - 1)
	z.bits >>= n
	z.have -= n
	return v
}

// header skips the header of a member with its optional fields.
func (z *inflater) header() {
	h := z.s.peek(10)
	if len(h) < 10 || h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 || h[3]&0xe0 != 0 {
		z.fail()
		return
	}
	flags := h[3]
	ok := z.s.skip(10)
	if flags&4 != 0 {
		n := z.take(16)
		ok = ok && z.s.skip(int64(n))
	}
	for _, field := range []byte{8, 16} { // name, comment
		if flags&field != 0 {
			ok = ok && z.s.find("\x00")
		}
	}
	if flags&2 != 0 {
		ok = ok && z.s.skip(2)
	}
	if !ok {
		z.fail()
	}
	z.mode = inBlock
}

// trailer checks sum and length; rest was unpacked but not summed yet.
func (z *inflater) trailer(rest []byte) {
	sum := crc32.Update(z.sum, crc32.IEEETable, rest)
	t := z.s.peek(8)
	if len(t) < 8 || le.Uint32(t) != sum || le.Uint32(t[4:]) != z.total {
		z.fail()
		return
	}
	z.s.skip(8)
	z.err = io.EOF
}

// block begins a block, or the trailer behind the last one.
func (z *inflater) block() {
	if z.last {
		z.have, z.bits = 0, 0 // at most 7, since no byte is taken before it is needed
		z.mode = inTrailer
		return
	}
	z.last = z.take(1) == 1
	switch z.take(2) {
	case 0:
		z.have, z.bits = 0, 0
		n := z.take(16)
		if z.take(16) != n^0xffff {
			z.fail()
		}
		if z.left = int(n); n > 0 {
			z.mode = inStored
		}
	case 1:
		var lengths [320]byte
		for i := range lengths {
			switch {
			case i < 144:
				lengths[i] = 8
			case i < 256:
				lengths[i] = 9
			case i < 280:
				lengths[i] = 7
			case i < 288:
				lengths[i] = 8
			default:
				lengths[i] = 5
			}
		}
		z.lengths.build(lengths[:288])
		z.distances.build(lengths[288:318])
		z.mode = inCodes
	case 2:
		z.dynamic()
		z.mode = inCodes
	default:
		z.fail()
	}
}

// dynamic reads the code lengths of a block with codes of its own.
func (z *inflater) dynamic() {
	const order = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"
	literals, distances, codes := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	var lengths [320]byte
	for i := range codes {
		lengths[order[i]] = byte(z.take(3))
	}
	if literals > 286 || distances > 30 || !z.lengths.build(lengths[:19]) {
		z.fail()
		return
	}
	clear(lengths[:])
	for i := 0; i < literals+distances && z.err == nil; {
		symbol, value, repeat := z.decode(&z.lengths), byte(0), uint32(1)
		switch symbol {
		case 16:
			if i == 0 {
				z.fail()
				return
			}
			value, repeat = lengths[i-1], 3+z.take(2)
		case 17:
			repeat = 3 + z.take(3)
		case 18:
			repeat = 11 + z.take(7)
		default:
			value = byte(symbol)
		}
		for ; repeat > 0; repeat-- {
			if i == literals+distances {
				z.fail()
				return
			}
			lengths[i] = value
			i++
		}
	}
	one := z.lengths.build(lengths[:literals])
	two := z.distances.build(lengths[literals : literals+distances])
	if lengths[256] == 0 || !one && z.lengths.codes != 1 || !two && z.distances.codes > 1 {
		z.fail()
	}
}

// match begins a match whose length has a symbol.
func (z *inflater) match(symbol int) {
	// Base lengths double every four symbols, base distances every two.
	length, extra := symbol+3, uint32(0)
	if symbol >= 8 && symbol < 28 {
		extra = uint32(symbol/4 - 1)
		length = 3 + (4+symbol%4)<<extra + int(z.take(extra))
	} else if symbol == 28 {
		length = 258
	} else if symbol > 28 {
		z.fail()
		return
	}
	d := z.decode(&z.distances)
	distance := uint32(d) + 1
	if d > 29 {
		z.fail()
		return
	}
	if d >= 4 {
		extra = uint32(d/2 - 1)
		distance = 1 + (2+uint32(d%2))<<extra + z.take(extra)
	}
	if !z.long && distance > z.total {
		z.fail()
		return
	}
	z.left, z.distance, z.mode = length, distance, inMatch
}

// huffman is a canonical code: how many codes of each length there are, and the
// symbols in the order of their codes.
type huffman struct {
	counts  [16]uint16
	symbols [288]uint16
	codes   int
}

// build makes the code from the length of each symbol's code; it says whether it
// is complete: no bits are without a symbol, or have two.
func (h *huffman) build(lengths []byte) bool {
	clear(h.counts[:])
	for _, n := range lengths {
		h.counts[n]++
	}
	h.codes = len(lengths) - int(h.counts[0])
	left := 1
	var at [16]uint16
	for n := 1; n < 16; n++ {
		if left = left<<1 - int(h.counts[n]); left < 0 {
			h.codes = 0x7fff // too many: no use
			clear(h.counts[:])
			return false
		}
		if n < 15 {
			at[n+1] = at[n] + h.counts[n]
		}
	}
	for symbol, n := range lengths {
		if n != 0 {
			h.symbols[at[n]] = uint16(symbol)
			at[n]++
		}
	}
	return left == 0
}

// decode reads a symbol.
func (z *inflater) decode(h *huffman) int {
	code, first, index := 0, 0, 0
	for n := 1; n < 16; n++ {
		if z.have == 0 {
			if !z.s.fill(1) {
				break
			}
			z.bits = uint32(z.s.buf[z.s.pos])
			z.s.pos++
			z.have = 8
		}
		code |= int(z.bits & 1)
		z.bits >>= 1
		z.have--
		count := int(h.counts[n])
		if code-count < first {
			return int(h.symbols[index+code-first])
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	z.fail()
	return 0
}
