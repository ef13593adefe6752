package main

import "bytes"

// ECDSA keys on the curve P-256 (SP 800-186, 3.2.1.3): making them, nothing else.

// p256 holds the curve's numbers as big-endian bytes: the modulus of its field,
// the order, the constant b, and the base point.
const (
	p256Field = "\xff\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
	p256Order = "\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51"
	p256B     = "\x5a\xc6\x35\xd8\xaa\x3a\x93\xe7\xb3\xeb\xbd\x55\x76\x98\x86\xbc\x65\x1d\x06\xb0\xcc\x53\xb0\xf6\x3b\xce\x3c\x3e\x27\xd2\x60\x4b"
	p256X     = "\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96"
	p256Y     = "\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5"
)

// p256Add is the sum of two points in projective coordinates, equal ones and the
// neutral one (0, 1, 0) included (Renes, Costello, Batina 2016, algorithm 4): 43
// operations of result, operands and operator. The points are abc and def, the
// sum is xyz; 0 to 4 are temporary; k is the curve's b.
const p256Add = "0ad*1be*2cf*3ab+4de+334*401+334-4bc+xef+44x*x12+44x-xac+ydf+xxy*y02+yxy-zk2*xyz-zxx+xxz+z1x-x1x+" +
	"yky*122+212+yy2-yy0-1yy+y1y+100+010+002-14y*20y*yxz*yy2+x3x*xx1-z4z*130*zz1+"

// p256 is a calculation on the curve: numbers in Montgomery form by their names
// in p256Add.
type p256 struct {
	m *modulus
	v [128][]uint64
}

func newP256() *p256 {
	c := &p256{m: newModulus(limbsOf([]byte(p256Field), 4))}
	for _, name := range []byte("abcdefxyz01234k") {
		c.v[name] = c.m.newNumber()
	}
	c.m.toMontgomery(c.v['k'], limbsOf([]byte(p256B), 4))
	return c
}

// add is xyz = abc + def.
func (c *p256) add() {
	for i := 0; i < len(p256Add); i += 4 {
		z, x, y := c.v[p256Add[i]], c.v[p256Add[i+1]], c.v[p256Add[i+2]]
		switch p256Add[i+3] {
		case '*':
			c.m.mul(z, x, y)
		case '+':
			c.m.add(z, x, y)
		case '-':
			c.m.sub(z, x, y)
		}
	}
}

// multiply returns the base point times a number of 32 big-endian bytes that is
// neither 0 nor a multiple of the order, as 04, X, Y. The time depends on no bit
// of the number.
func (c *p256) multiply(d []byte) []byte {
	sum := [3][]uint64{c.m.newNumber(), c.m.newNumber(), c.m.newNumber()}
	base := [3][]uint64{limbsOf([]byte(p256X), 4), limbsOf([]byte(p256Y), 4), c.m.one}
	c.m.toMontgomery(base[0], base[0])
	c.m.toMontgomery(base[1], base[1])
	copy(sum[1], c.m.one)
	for i := range 256 {
		for j := range sum {
			copy(c.v['a'+j], sum[j])
			copy(c.v['d'+j], sum[j])
		}
		c.add()
		for j := range sum {
			copy(sum[j], c.v['x'+j])
			copy(c.v['a'+j], sum[j])
			copy(c.v['d'+j], base[j])
		}
		c.add()
		for j := range sum {
			selectLimbs(sum[j], c.v['x'+j], sum[j], uint64(d[i/8]>>(7-i%8)&1))
		}
	}
	c.m.inverse(sum[2], sum[2])
	point := []byte{4}
	for _, n := range sum[:2] {
		c.m.mul(n, n, sum[2])
		c.m.fromMontgomery(n, n)
		point = append(point, limbBytes(n)...)
	}
	return point
}

// newECDSA makes a key on P-256.
func newECDSA() (*sshKeyPair, error) {
	d := make(secret, 32)
	defer d.wipe()
	for bytes.Compare(d, []byte(p256Order)) >= 0 || bytes.Count(d, []byte{0}) == len(d) {
		if err := randomBytes(d); err != nil {
			return nil, err
		}
	}
	blob := ecdsaBlob("nistp256", newP256().multiply(d))
	private := appendMpint(bytes.Clone(blob), d)
	return &sshKeyPair{public: blob, private: private, dropbear: bytes.Clone(private)}, nil
}
