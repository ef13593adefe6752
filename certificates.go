package main

import (
	"context"
	"errors"
	"strings"
)

// The Certificates document of the wire server.

// transportCiphers are asked for in this order.
var transportCiphers = [...]string{"AES128_CBC", "DES_EDE3_CBC"}

const pfxFormat = "Pkcs7BlobWithPfxContents"

// certificateFile is a CertificateFile document.
type certificateFile struct {
	Format string // "" is pfxFormat
	Data   []byte // CMS; empty when there are no certificates
}

// parseCertificateFile reads the document; its data is decoded.
func parseCertificateFile(doc []byte) (*certificateFile, error) {
	f, data := &certificateFile{}, ""
	err := xmlFields(doc, "CertificateFile", map[string]*string{"CertificateFile/Format": &f.Format, "CertificateFile/Data": &data})
	if err != nil {
		return nil, err
	}
	if f.Data, err = decodeBase64([]byte(data)); err != nil {
		return nil, errors.New("its data is not base64")
	}
	return f, nil
}

// open decrypts what the document holds. Of another format than the PFX one
// nothing is taken, with a note.
func (f *certificateFile) open(to *recipient) (*keyStore, error) {
	if f.Format != "" && f.Format != pfxFormat {
		return &keyStore{notes: []string{"certificates of the format " + oneLine(f.Format, 60) + " are left out: it is not known"}}, nil
	}
	if len(f.Data) == 0 {
		return &keyStore{}, nil
	}
	file, err := openCMS(f.Data, to)
	if err != nil {
		return nil, err
	}
	s, err := openPFX(file)
	if err != nil {
		file.wipe()
	}
	return s, err
}

// certificates fetches and opens the document that the goal state names; none is
// an empty store. The ciphers are tried in turn, for every error; while the server
// fails in a way that may pass, this goes on until ctx is done.
func (w *wireServer) certificates(ctx context.Context, gs *goalState, t *transport) (s *keyStore, err error) {
	var opening error
	err = w.retry(ctx, "fetch certificates", func() (err error) {
		opening = nil
		if gs == nil {
			if gs, err = w.fetchGoalState(ctx); err != nil {
				return err
			}
		}
		if gs.CertificatesURL == "" {
			s = &keyStore{}
			return nil
		}
		target, err := targetOf(gs.CertificatesURL)
		if err != nil {
			opening = err
			return nil
		}
		for _, cipher := range transportCiphers {
			var body []byte
			if body, err = w.send(ctx, &httpRequest{method: "GET", target: target, header: t.header(cipher)}); err != nil {
				if statusOf(err) == 410 {
					gs = nil
					return err
				}
				continue
			}
			var f *certificateFile
			if f, opening = parseCertificateFile(body); opening == nil {
				if s, opening = f.open(&t.recipient); opening == nil {
					return nil
				}
			}
			opening = errorf("%w (asked for %s)", opening, cipher)
		}
		if opening != nil && (err == nil || !transient(err)) {
			return nil
		}
		return err
	})
	if err == nil && opening != nil && s == nil {
		return nil, failure("open certificates", "of "+w.endpoint, opening)
	}
	return s, err
}

// targetOf is path and query of a URL of the goal state, byte for byte. The host
// in it is the wire server's own and not looked at.
func targetOf(url string) (string, error) {
	_, rest, found := strings.Cut(url, "://")
	at := strings.IndexByte(rest, '/')
	if !found || at < 0 || len(url) > 2048 || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", failure("use certificates url", oneLine(url, 200), errors.New("not an http url"))
	}
	return rest[at:], nil
}
