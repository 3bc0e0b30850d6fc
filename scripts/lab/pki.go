// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is the lab's only certificate authority, for clients, servers and the relay.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	serial      int64
}

// identity is the content of a certificate.
type identity struct {
	user, group string
	names       []string  // DNS names and addresses of a server
	ends        time.Time // in a day if zero
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("creating the authority's key: %w", err)
	}
	template := certificate(1, pkix.Name{CommonName: "lab"})
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("creating the authority: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{certificate: parsed, key: key, serial: 1}
	return a, writePEM(caFile, "CERTIFICATE", der)
}

func certificate(serial int64, subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
}

// issue writes NAME.crt and NAME.key to the certificate directory.
func (a *authority) issue(name string, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("creating the key of %s: %w", name, err)
	}
	a.serial++
	template := certificate(a.serial, pkix.Name{CommonName: id.user})
	if !id.ends.IsZero() {
		template.NotAfter = id.ends
	}
	if id.group != "" {
		template.Subject.Organization = []string{id.group}
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, n := range id.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("creating the certificate of %s: %w", name, err)
	}
	if err := writePEM(certFile(name), "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(keyFile(name), key)
}

// RelayCertificate returns a certificate like that of the relay on a node, with the given expiry, for a test server that
// replaces the relay.
func (l *Lab) RelayCertificate(node string, ends time.Time) (tls.Certificate, error) {
	const name = "stand-in"
	id := identity{user: "smartnat-relay", names: []string{relayName, l.nodes[node].addresses[0]}, ends: ends}
	if err := l.authority.issue(name, id); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(certFile(name), keyFile(name))
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func certFile(name string) string { return filepath.Join(pkiDir, name+".crt") }
func keyFile(name string) string  { return filepath.Join(pkiDir, name+".key") }
