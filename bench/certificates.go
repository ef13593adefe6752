package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// benchCertificates measures exec to Ready of a VM whose only key is known by the
// fingerprint of a certificate, beside one that has its key by value, and the RSA
// key generation of openssl that it is judged by. The metadata service knows no
// keys: it would spare the certificate.
func benchCertificates(dir string, rounds int) (map[string][]float64, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, sshKey := range map[string]map[string]any{
		"by value":       {"value": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3TrnLVhHVaYsAjSyQfWLhSHnOLUkgJuFT5Q4RV7Iv1 ops@desk"},
		"by fingerprint": {"fingerprint": fmt.Sprintf("%X", sha1.Sum(der))},
	} {
		vm, err := json.Marshal(map[string]any{"hostname": "bench-01", "user": "opsadmin", "sshKeys": []any{sshKey}, "imds": map[string]any{"sshKeys": []any{}},
			"certificates": []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}})
		if err != nil {
			return nil, err
		}
		files[name] = filepath.Join(dir, name+".json")
		if err := os.WriteFile(files[name], vm, 0o600); err != nil {
			return nil, err
		}
	}
	results := map[string][]float64{}
	for i := range rounds + 1 {
		for name, file := range files {
			r, err := measure(filepath.Join(dir, fmt.Sprintf("certificates-%s-%d", name, i)), file, "azprov")
			if err != nil {
				return nil, fmt.Errorf("key %s: %w", name, err)
			}
			if i > 0 {
				results[name] = append(results[name], r.ReadyMS)
			}
		}
		began := time.Now()
		out, err := exec.Command("openssl", "genrsa", "2048").Output()
		if err != nil || !bytes.Contains(out, []byte("PRIVATE KEY")) {
			return nil, fmt.Errorf("openssl genrsa: %w", err)
		}
		if i > 0 {
			results["openssl genrsa"] = append(results["openssl genrsa"], time.Since(began).Seconds()*1000)
		}
	}
	self := func(v float64) float64 { return v }
	value, fingerprint, openssl := median(results["by value"], self), median(results["by fingerprint"], self), median(results["openssl genrsa"], self)
	fmt.Printf("exec to Ready with a key by value %.1f ms, by fingerprint %.1f ms: %.1f ms more (limit: openssl genrsa 2048, %.1f ms)\n",
		value, fingerprint, fingerprint-value, openssl)
	return results, nil
}

// benchCertificatesAlone is benchCertificates on a disk of its own.
func benchCertificatesAlone(rounds int) error {
	dir, unmount, err := freshDisk()
	if err != nil {
		return err
	}
	defer unmount()
	_, err = benchCertificates(dir, rounds)
	return err
}
