package main

import (
	"context"
	"encoding/base64"
)

// The transport certificate: what the wire server encrypts certificates for. It
// is made for one run and kept in memory.

const (
	oidSHA256WithRSA    = oidPKCS + "\x01\x0b"
	oidCommonName       = "\x55\x04\x03"
	oidBasicConstraints = "\x55\x1d\x13"
	transportName       = "LinuxTransport"
	transportBits       = 2048
	// The clock may be wrong this early, and nobody checks.
	transportFrom, transportTo = "200101000000Z", "491231235959Z"
)

// transport is a key pair with its self-signed certificate.
type transport struct {
	recipient
	certificate []byte // DER
}

// newTransport makes one: RSA with 2048 bits. It takes as long as generateRSA.
func newTransport(ctx context.Context) (*transport, error) {
	k, err := generateRSA(ctx, transportBits)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	if err := randomBytes(serial); err != nil {
		return nil, err
	}
	serial[0] = serial[0]&0x7f | 0x40
	public := der(derSequence, derNumber(k.N), derNumber(k.E))
	keyID := sha1Sum(public)
	algorithm := func(oid string) []byte { return der(derSequence, der(derOID, []byte(oid)), der(derNull)) }
	extension := func(oid string, value []byte) []byte {
		return der(derSequence, der(derOID, []byte(oid)), der(derOctets, value))
	}
	bitString := func(b []byte) []byte { return der(derBits, []byte{0}, b) }
	name := der(derSequence, der(derSet, der(derSequence, der(derOID, []byte(oidCommonName)), der(derUTF8, []byte(transportName)))))
	body := der(derSequence,
		der(derContext|derMade, derNumber([]byte{2})), // version 3
		derNumber(serial),
		algorithm(oidSHA256WithRSA),
		name,
		der(derSequence, der(derUTCTime, []byte(transportFrom)), der(derUTCTime, []byte(transportTo))),
		name,
		der(derSequence, algorithm(oidRSA), bitString(public)),
		der(derContext|derMade|3, der(derSequence,
			extension(oidKeyID, der(derOctets, keyID)),
			extension(oidBasicConstraints, der(derSequence, der(derBoolean, []byte{0xff}))))))
	signature, err := k.signSHA256(sha256Sum(body))
	if err != nil {
		return nil, err
	}
	return &transport{recipient: recipient{key: k, keyID: keyID, issuer: name, serial: serial},
		certificate: der(derSequence, body, algorithm(oidSHA256WithRSA), bitString(signature))}, nil
}

// wipe overwrites the private key.
func (t *transport) wipe() {
	for _, part := range [][]byte{t.key.D, t.key.P, t.key.Q, t.key.DP, t.key.DQ, t.key.QInv} {
		clear(part)
	}
}

// header is what a request for certificates carries, with the cipher asked for.
func (t *transport) header(cipher string) []httpHeader {
	return append([]httpHeader{
		{"x-ms-cipher-name", cipher},
		{"x-ms-guest-agent-public-x509-cert", base64.StdEncoding.EncodeToString(t.certificate)},
	}, machineHeader...)
}
