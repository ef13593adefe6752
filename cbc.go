package main

import "errors"

// blockCipher decrypts one block.
type blockCipher interface {
	blockSize() int
	decrypt(dst, src []byte)
}

var errCipherText = errors.New("encrypted data of a wrong length")

// decryptCBC decrypts by cipher block chaining and takes the padding of RFC 5652,
// 6.3, away. All that can be wrong of the padding is errPadding, found in the
// same time.
func decryptCBC(c blockCipher, iv, data []byte) ([]byte, error) {
	size := c.blockSize()
	if len(iv) != size || len(data) == 0 || len(data)%size != 0 {
		return nil, errCipherText
	}
	out := make([]byte, len(data))
	for at := 0; at < len(data); at += size {
		block := out[at : at+size]
		c.decrypt(block, data[at:])
		for i := range block {
			block[i] ^= iv[i]
		}
		iv = data[at : at+size]
	}
	last := out[len(out)-size:]
	n := uint64(last[size-1])
	bad := isZero(n) | (uint64(size)-n)>>63
	for i := range size {
		// Byte size-1-i belongs to the padding if i < n.
		belongs := (uint64(i) - n) >> 63
		bad |= belongs & (zeroByte(last[size-1-i]^byte(n)) ^ 1)
	}
	if bad != 0 {
		clear(out)
		return nil, errPadding
	}
	return out[:len(out)-int(n)], nil
}
