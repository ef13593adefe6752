package main

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// Sizes and offsets of ELF64 structures (elf.h).
const (
	ehdrSize, phdrSize, shdrSize = 64, 56, 64

	ehdrPhoff, ehdrShoff, ehdrPhnum, ehdrShnum = 32, 40, 56, 60

	phdrOffset, phdrVaddr, phdrPaddr, phdrFilesz, phdrMemsz, phdrAlign = 8, 16, 24, 32, 40, 48
	shdrOffset, shdrLen                                                = 24, 32
)

// executable is a Go executable of ELF64, little-endian.
type executable struct {
	data     []byte
	sections []section
}

type section struct {
	name            string
	addr, off, size uint64
	bss             bool
}

func parseELF(data []byte) (*executable, error) {
	parsed, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, errLayout)
	}
	if parsed.Class != elf.ELFCLASS64 || parsed.Data != elf.ELFDATA2LSB || parsed.Type != elf.ET_EXEC {
		return nil, fmt.Errorf("no ELF64 little-endian executable: %w", errLayout)
	}
	f := &executable{data: data}
	for _, s := range parsed.Sections {
		if s.Type != elf.SHT_NOBITS && (s.Offset > uint64(len(data)) || s.FileSize > uint64(len(data))-s.Offset) {
			return nil, fmt.Errorf("section %s out of bounds: %w", s.Name, errLayout)
		}
		f.sections = append(f.sections, section{s.Name, s.Addr, s.Offset, s.Size, s.Type == elf.SHT_NOBITS})
	}
	return f, nil
}

func (f *executable) section(name string) *section {
	for i := range f.sections {
		if f.sections[i].name == name {
			return &f.sections[i]
		}
	}
	return nil
}

// Offsets in runtime.moduledata (runtime/symtab.go): pcHeader, then the slices
// funcnametab, cutab, filetab, pctab, pclntable and ftab, then findfunctab.
const (
	modSlices      = 8
	modFindfunctab = modSlices + 6*24
	modGofunc      = 320
	modEpclntab    = 328
	modSize        = 336
)

// pointers are the words that moduledata starts with, for a table at an address.
func (t *table) pointers(addr uint64) []byte {
	b := le.AppendUint64(nil, addr)
	for i, n := range []int{len(t.names), len(t.cutab) / 4, len(t.filetab), len(t.pctab), len(t.pcln), t.nfunc + 1} {
		b = le.AppendUint64(b, addr+t.word(3+min(i, 4))) // pclntable and ftab start at the same place
		b = le.AppendUint64(b, uint64(n))
		b = le.AppendUint64(b, uint64(n))
	}
	return b
}

// point makes moduledata tell where the table's parts are.
func (t *table) point(mod []byte, addr uint64) {
	copy(mod, t.pointers(addr))
	le.PutUint64(mod[modFindfunctab:], addr+t.find)
	le.PutUint64(mod[modGofunc:], addr+t.gofunc)
	le.PutUint64(mod[modEpclntab:], addr+uint64(len(t.data)))
}

// moduledata finds runtime.firstmoduledata by the pointers that it starts with.
func (f *executable) moduledata(t *table, addr uint64) ([]byte, error) {
	want := t.pointers(addr)
	for _, s := range f.sections {
		if s.bss || s.addr == 0 {
			continue
		}
		b := f.data[s.off : s.off+s.size]
		for at := 0; ; at += 8 {
			i := bytes.Index(b[at:], want[:16])
			if i < 0 {
				break
			}
			at += i
			if len(b)-at >= modSize && samePointers(b[at:], want) {
				return b[at:], nil
			}
		}
	}
	return nil, fmt.Errorf("no module data: %w", errLayout)
}

// samePointers compares the pointers of the slices; the linker pads some lengths.
func samePointers(a, b []byte) bool {
	for i := range 6 {
		if le.Uint64(a[8+24*i:]) != le.Uint64(b[8+24*i:]) {
			return false
		}
	}
	return true
}

// cut removes what a section holds behind its new size from the file. Addresses
// stay: the segment is split in two, and nothing is mapped in the gap.
func (f *executable) cut(s *section, size uint64) ([]byte, error) {
	data := f.data
	phoff, phnum := le.Uint64(data[ehdrPhoff:]), uint64(le.Uint16(data[ehdrPhnum:]))
	shoff, shnum := le.Uint64(data[ehdrShoff:]), uint64(le.Uint16(data[ehdrShnum:]))
	segment, next := uint64(0), uint64(0) // the segment's header, and the next section's place
	for i := range phnum {
		p := phoff + i*phdrSize
		off := le.Uint64(data[p+phdrOffset:])
		if elf.ProgType(le.Uint32(data[p:])) == elf.PT_LOAD && off <= s.off && s.off < off+le.Uint64(data[p+phdrFilesz:]) {
			segment = p
		}
	}
	for _, t := range f.sections {
		if !t.bss && t.off >= s.off+s.size && (next == 0 || t.off < next) && t.addr != 0 {
			next = t.off
		}
	}
	if segment == 0 || next == 0 {
		return nil, fmt.Errorf("no segment of the function table: %w", errLayout)
	}
	align := le.Uint64(data[segment+phdrAlign:])
	if align == 0 || align&(align-1) != 0 {
		return nil, fmt.Errorf("a segment aligned to %d: %w", align, errLayout)
	}
	begin := (s.off + size + align - 1) &^ (align - 1)
	end := next &^ (align - 1)
	if end <= begin {
		return data, nil
	}
	gap := end - begin

	// The new header moves what follows the program headers in the first page:
	// the section headers.
	headers := phoff + phnum*phdrSize
	if shoff != headers || f.firstContent() < shoff+shnum*shdrSize+phdrSize {
		return nil, fmt.Errorf("no room for another program header: %w", errLayout)
	}
	out := bytes.Clone(data)
	copy(out[segment+2*phdrSize:shoff+shnum*shdrSize+phdrSize], data[segment+phdrSize:shoff+shnum*shdrSize])
	le.PutUint64(out[ehdrShoff:], shoff+phdrSize)
	le.PutUint16(out[ehdrPhnum:], uint16(phnum+1))

	off, vaddr := le.Uint64(data[segment+phdrOffset:]), le.Uint64(data[segment+phdrVaddr:])
	filesz := le.Uint64(data[segment+phdrFilesz:])
	second := segment + phdrSize
	copy(out[second:second+phdrSize], data[segment:])
	setSegment := func(p, off, vaddr, size uint64) {
		le.PutUint64(out[p+phdrOffset:], off)
		le.PutUint64(out[p+phdrVaddr:], vaddr)
		le.PutUint64(out[p+phdrPaddr:], vaddr)
		le.PutUint64(out[p+phdrFilesz:], size)
		le.PutUint64(out[p+phdrMemsz:], size)
	}
	setSegment(segment, off, vaddr, s.off+size-off)
	setSegment(second, begin, vaddr+(end-off), filesz-(end-off))
	for i := range phnum + 1 {
		p := phoff + i*phdrSize
		switch at := le.Uint64(out[p+phdrOffset:]); {
		case elf.ProgType(le.Uint32(out[p:])) == elf.PT_PHDR:
			le.PutUint64(out[p+phdrFilesz:], (phnum+1)*phdrSize)
			le.PutUint64(out[p+phdrMemsz:], (phnum+1)*phdrSize)
		case p != second && at >= end:
			le.PutUint64(out[p+phdrOffset:], at-gap)
		}
	}
	for i := range shnum {
		p := shoff + phdrSize + i*shdrSize
		switch at := le.Uint64(out[p+shdrOffset:]); {
		case at == s.off && le.Uint64(out[p+shdrLen:]) == s.size:
			le.PutUint64(out[p+shdrLen:], size)
		case at >= end:
			le.PutUint64(out[p+shdrOffset:], at-gap)
		}
	}
	return append(out[:begin], data[end:]...), nil
}

// firstContent is where the first section's content starts in the file.
func (f *executable) firstContent() uint64 {
	first := uint64(len(f.data))
	for _, s := range f.sections {
		if !s.bss && s.addr != 0 && s.off < first {
			first = s.off
		}
	}
	return first
}
