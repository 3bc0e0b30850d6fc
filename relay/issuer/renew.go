// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// Lifetimes. A gateway learns the authorities when it is enrolled, so an authority gets its successor Overlap before it ends:
// a gateway that is enrolled within that time knows both.
const (
	authorityLife   = 10 * year
	Overlap         = 3 * year
	certificateLife = 90 * day
	renewBefore     = 30 * day
	// backdated is how far the clock of a gateway may be behind.
	backdated = time.Hour

	day  = 24 * time.Hour
	year = 365 * day
)

// Keys of the Secret. The first three are those of cert-manager; keyAuthorityKey holds the key of the newest authority.
const (
	keyCertificate  = "tls.crt"
	keyKey          = "tls.key"
	keyAuthorities  = "ca.crt"
	keyAuthorityKey = "ca.key"
)

// Reasons of Renew.
const (
	ReasonEmpty       = "the Secret is empty"
	ReasonAuthority   = "the authority ends"
	ReasonCertificate = "the certificate ends"
	// ReasonFuture repairs what a wrong clock has issued.
	ReasonFuture = "the certificate is not valid yet"
	ReasonName   = "the certificate has another name"
)

// Renew returns the content that the Secret of a relay with that DNS name needs at a time, and why it differs from the current
// content, which is empty before the first time. If nothing is to do, it returns the current content and no reason.
//
// A new authority is also certified by the one before it, and the relay sends that certificate in its handshakes. So gateways
// that know only the older authority accept the relay until that authority ends.
func Renew(current map[string][]byte, name string, now time.Time) (content map[string][]byte, reason string, err error) {
	if len(current) == 0 {
		made, err := newAuthority(name, now, now.Add(-backdated))
		if err != nil {
			return nil, "", err
		}
		content, err = made.issue(name, now)
		return content, ReasonEmpty, err
	}
	a, leaf, err := parse(current)
	if err != nil {
		return nil, "", err
	}
	switch {
	case a.root().NotAfter.Sub(now) < Overlap:
		if a, err = a.successor(name, now); err != nil {
			return nil, "", err
		}
		reason = ReasonAuthority
	case leaf.NotAfter.Sub(now) < renewBefore:
		reason = ReasonCertificate
	case leaf.NotBefore.After(now):
		reason = ReasonFuture
	case leaf.VerifyHostname(name) != nil:
		reason = ReasonName
	default:
		return current, "", nil
	}
	content, err = a.issue(name, now)
	return content, reason, err
}

// authority is the newest authority with its key. roots holds its certificate and then that of its predecessor, if it has one;
// bridge is its certificate by the predecessor.
type authority struct {
	key    crypto.Signer
	roots  []*x509.Certificate
	bridge *x509.Certificate
}

func (a *authority) root() *x509.Certificate { return a.roots[0] }

// newAuthority makes an authority that can sign only certificates for that name.
func newAuthority(name string, now, notBefore time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of the authority: %w", err)
	}
	// One intermediate certificate: that of a successor. The time makes the name unique, which verifiers look for.
	template := authorityTemplate(name, "smartnat-relay-ca "+now.UTC().Format(time.RFC3339), notBefore, now.Add(authorityLife), 1)
	root, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority: %w", err)
	}
	return &authority{key: key, roots: []*x509.Certificate{root}}, nil
}

func authorityTemplate(name, subject string, notBefore, notAfter time.Time, intermediates int) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: subject},
		NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: intermediates, MaxPathLenZero: intermediates == 0,
		KeyUsage:                    x509.KeyUsageCertSign,
		PermittedDNSDomains:         []string{name},
		PermittedDNSDomainsCritical: true,
	}
}

// successor makes the authority that follows a. Its certificates are valid from the time that a is, and it is certified by a even
// if a seems to have ended: if the clock was wrong, gateways that know only a accept it once the clock is right.
func (a *authority) successor(name string, now time.Time) (*authority, error) {
	next, err := newAuthority(name, now, a.root().NotBefore)
	if err != nil {
		return nil, err
	}
	template := authorityTemplate(name, next.root().Subject.CommonName, a.root().NotBefore, a.root().NotAfter, 0)
	template.SubjectKeyId = next.root().SubjectKeyId
	if next.bridge, err = sign(template, a.root(), next.key.Public(), a.key); err != nil {
		return nil, fmt.Errorf("certifying the new authority by the old one: %w", err)
	}
	next.roots = append(next.roots, a.root())
	return next, nil
}

// issue returns the content of the Secret, with a new certificate and key.
func (a *authority) issue(name string, now time.Time) (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of the certificate: %w", err)
	}
	leaf, err := sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "smartnat-relay"},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{name},
	}, a.root(), key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("issuing the certificate: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of the certificate: %w", err)
	}
	authorityKey, err := keyutil.MarshalPrivateKeyToPEM(a.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of the authority: %w", err)
	}
	chain := []*x509.Certificate{leaf}
	if a.bridge != nil {
		chain = append(chain, a.bridge)
	}
	return map[string][]byte{
		keyCertificate: encode(chain), keyKey: keyPEM, keyAuthorities: encode(a.roots), keyAuthorityKey: authorityKey,
	}, nil
}

// parse reads the content that issue returns.
func parse(content map[string][]byte) (*authority, *x509.Certificate, error) {
	chain, err := cert.ParseCertsPEM(content[keyCertificate])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyCertificate, err)
	}
	a := &authority{}
	if len(chain) > 1 {
		a.bridge = chain[1]
	}
	if a.roots, err = cert.ParseCertsPEM(content[keyAuthorities]); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyAuthorities, err)
	}
	key, err := keyutil.ParsePrivateKeyPEM(content[keyAuthorityKey])
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyAuthorityKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s: a key of type %T cannot sign", keyAuthorityKey, key)
	}
	a.key = signer
	return a, chain[0], nil
}

// pairOf returns the certificate and key of a Secret, for handshakes.
func pairOf(content map[string][]byte) (*tls.Certificate, error) {
	if len(content[keyCertificate]) == 0 || len(content[keyKey]) == 0 {
		return nil, errors.New("tls.crt and tls.key are required")
	}
	pair, err := tls.X509KeyPair(content[keyCertificate], content[keyKey])
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}

func encode(certificates []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: cert.CertificateBlockType, Bytes: c.Raw}) // a buffer takes everything
	}
	return text.Bytes()
}
