// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// CheckFiles reports each file of the config that cannot be read or has the wrong content, by its key.
func (c Config) CheckFiles() error {
	var errs []error
	check := func(key, path string, problem func(content []byte) error) {
		if path == "" {
			return
		}
		content, err := os.ReadFile(path)
		if err == nil {
			err = problem(content)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %q: %w", key, path, err))
		}
	}
	if r := c.Source.Relay; r != nil {
		check("source.relay.caFile", r.CAFile, noCertificate)
		check("source.relay.tokenFile", r.TokenFile, noToken)
		check("source.relay.certFile", r.CertFile, noCertificate)
		check("source.relay.keyFile", r.KeyFile, func(key []byte) error { return noPair(r.CertFile, key) })
	}
	if k := c.Source.Kubeconfig; k != nil && k.Path != "" {
		check("source.kubeconfig.path", k.Path, func([]byte) error { return nil })
	}
	if f := c.Source.Files; f != nil {
		for i, path := range f.Paths {
			if _, err := os.Stat(path); err != nil {
				errs = append(errs, fmt.Errorf("source.files.paths[%d]: %w", i, err))
			}
		}
	}
	if c.HA.Hook != "" {
		if err := CheckHook(c.HA.Hook); err != nil {
			errs = append(errs, fmt.Errorf("ha.hook: %w", err))
		}
	}
	return errors.Join(errs...)
}

func noCertificate(content []byte) error {
	if x509.NewCertPool().AppendCertsFromPEM(content) {
		return nil
	}
	return errors.New("must hold a certificate in PEM")
}

func noToken(content []byte) error {
	if len(strings.Fields(string(content))) == 1 {
		return nil
	}
	return errors.New("must hold one bearer token and nothing else")
}

func noPair(certFile string, key []byte) error {
	cert, unreadable := os.ReadFile(certFile)
	_, err := tls.X509KeyPair(cert, key)
	// Problems of the certificate itself are reported for its own key.
	if err != nil && unreadable == nil && noCertificate(cert) == nil {
		return fmt.Errorf("must hold the key of the certificate in certFile: %w", err)
	}
	return nil
}
