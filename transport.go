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
	const (
		signed    = "\x30\x0d\x06\x09" + oidSHA256WithRSA + "\x05\x00"
		encrypted = "\x30\x0d\x06\x09" + oidRSA + "\x05\x00"
	)
	public := derRSA(k)
	keyID := sha1Sum([]byte(public))
	name := der(derSequence, der(derSet, der(derSequence, der(derOID, oidCommonName)+der(derUTF8, transportName))))
	extensions := der(derSequence, der(derOID, oidKeyID)+der(derOctets, der(derOctets, string(keyID)))) +
		der(derSequence, der(derOID, oidBasicConstraints)+der(derOctets, "\x30\x03\x01\x01\xff"))
	body := der(derSequence, "\xa0\x03\x02\x01\x02"+ // version 3
		derNumber(serial)+signed+name+
		der(derSequence, der(derUTCTime, transportFrom)+der(derUTCTime, transportTo))+
		name+der(derSequence, encrypted+der(derBits, "\x00"+public))+
		der(derContext|derMade|3, der(derSequence, extensions)))
	signature, err := k.signSHA256(sha256Sum([]byte(body)))
	if err != nil {
		return nil, err
	}
	return &transport{recipient: recipient{key: k, keyID: keyID, issuer: []byte(name), serial: serial},
		certificate: []byte(der(derSequence, body+signed+der(derBits, "\x00"+string(signature))))}, nil
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
