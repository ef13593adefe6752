package main

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// provisionDataTarget is where a draft of the platform has the wire server hand
// out what a VM was created with, for sizes that get no DVD. Nothing is known of
// its standing; the version is that of the metadata service.
const provisionDataTarget = "/provisiondata"

const provisionDataVersion = "?api-version=2021-08-01"

// provisionDataSource is the wire server as a source of the spec.
type provisionDataSource struct{}

func (provisionDataSource) name() string { return "provisiondata" }

// read takes a document in either form: that of ovf-env.xml, or JSON as the
// metadata service has it, with the two secrets apart. A server that knows no
// such thing is no error.
func (provisionDataSource) read(ctx context.Context, b *boot) (*spec, string, error) {
	if !b.cfg.ProvisionData {
		return nil, "", nil
	}
	ctx, cancel := b.sourceTime(ctx)
	defer cancel()
	w, err := b.newWire()
	if err != nil {
		return nil, "", err
	}
	defer w.client.close()
	doc, err := w.provisionData(ctx, "")
	if doc == nil || err != nil {
		return nil, "", err
	}
	defer doc.wipe()
	if bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("<")) {
		s, err := parseOVF(doc)
		return s, "a document of the wire server", err
	}
	md, err := parseIMDS(doc)
	if err != nil {
		return nil, "", failure("parse provision data", "", err)
	}
	s := &md.Spec
	if md.HasAdminPassword {
		if s.Password, err = w.provisionData(ctx, "/adminPassword"); err != nil {
			return nil, "", err
		}
	}
	if md.HasCustomData {
		text, err := w.provisionData(ctx, "/customData")
		if err != nil {
			return nil, "", err
		}
		if s.CustomData, err = looseBase64(text); err != nil {
			return nil, "", failure("decode", "customData", err)
		}
	}
	return s, md.summary(), nil
}

// provisionData fetches the document or one value. Nil: the server has none.
func (w *wireServer) provisionData(ctx context.Context, value string) (secret, error) {
	var body []byte
	err := w.retry(ctx, "fetch provision data", func() (err error) {
		body, err = w.send(ctx, &httpRequest{method: "GET", target: provisionDataTarget + value + provisionDataVersion, header: machineHeader})
		switch statusOf(err) {
		case 400, 404:
			body, err = nil, nil
		case 401:
			err = failureHint("open", "a secure channel", err, "does the image lack the guest proxy agent that this VM needs?")
		case 0:
			if errors.Is(err, errConnect) {
				body, err = nil, nil
			}
		}
		return err
	})
	return body, err
}

// sourceTime bounds how long a source on the network is asked: imds.wait when
// there is a medium, which holds all that is needed; else imds.deadline.
func (b *boot) sourceTime(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := b.cfg.IMDSDeadline
	if b.phase == everyBoot { // there is nothing that could not be done at the next
		limit = min(limit, imdsLaterLimit)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	began := time.Now()
	go func() {
		select {
		case <-b.run.done["media"]:
		case <-ctx.Done():
			return
		}
		if b.medium != nil {
			sleep(ctx, b.cfg.IMDSWait-time.Since(began))
			cancel()
		}
	}()
	return ctx, cancel
}
