package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"testing"
)

// gzipped packs data as the standard library does.
func gzipped(t testing.TB, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What the standard library packs at any level is unpacked, and the stream is
// left right behind it.
func TestInflate(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := bytes.Repeat([]byte("CONFIG_HYPERV=m\nCONFIG_HYPERV_NET=m\n# CONFIG_UDF_FS is not set\n"), 4000)
	for i := 0; i < len(text); i += 97 {
		text[i] = byte(r.Uint32())
	}
	for _, data := range [][]byte{nil, {1}, text, noise, append(append([]byte{}, text[:50000]...), noise[:90000]...), make([]byte, 1<<20)} {
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			packed := append(gzipped(t, level, data), "behind"...)
			s := &stream{r: bytes.NewReader(packed)}
			got, err := io.ReadAll(newInflater(s))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("level %d, %d bytes: %d bytes, %v", level, len(data), len(got), err)
			}
			if rest := s.peek(100); string(rest) != "behind" {
				t.Fatalf("level %d: %q is behind", level, rest)
			}
			for _, n := range []int{0, 5, 40, len(packed) - 20, len(packed) - 7} { // cut off, and with a broken trailer
				if n < 0 || n >= len(packed)-6 {
					continue
				}
				if _, err := io.ReadAll(newInflater(&stream{r: bytes.NewReader(packed[:n])})); err == nil {
					t.Fatalf("level %d: no error after %d bytes of %d", level, n, len(packed))
				}
			}
			packed[len(packed)-12] ^= 1
			if _, err := io.ReadAll(newInflater(&stream{r: bytes.NewReader(packed)})); err != errInflate {
				t.Fatalf("level %d: a wrong sum: %v", level, err)
			}
		}
	}
}

// Whatever the standard library unpacks we unpack to the same, and nothing else.
func FuzzInflate(f *testing.F) {
	for _, level := range []int{0, 1, 9, gzip.HuffmanOnly} {
		f.Add(gzipped(f, level, []byte("some text, some text, some more text")))
		f.Add(gzipped(f, level, bytes.Repeat([]byte{7, 8, 9}, 3000)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 20
		got, err := io.ReadAll(io.LimitReader(newInflater(&stream{r: bytes.NewReader(data)}), limit))
		var want []byte
		z, wantErr := gzip.NewReader(bytes.NewReader(data))
		if wantErr == nil {
			z.Multistream(false)
			want, wantErr = io.ReadAll(io.LimitReader(z, limit))
		}
		if (err == nil) != (wantErr == nil) {
			// The library checks the header's own sum and is stricter about text in it.
			if err == nil && len(data) > 3 && data[3] != 0 {
				return
			}
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, want %d", len(got), len(want))
		}
	})
}
