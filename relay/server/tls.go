// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"fmt"
)

// tlsVersion parses the value of --tls-min-version.
func tlsVersion(s string) (uint16, error) {
	switch s {
	case "1.3":
		return tls.VersionTLS13, nil
	case "1.2":
		return tls.VersionTLS12, nil
	}
	return 0, fmt.Errorf("--tls-min-version: %q is neither 1.3 nor 1.2", s)
}

// tlsConfig returns a config that picks the current certificates for each connection.
func (c *Config) tlsConfig() *tls.Config {
	base := &tls.Config{
		MinVersion: c.MinTLSVersion,
		NextProtos: []string{"h2", "http/1.1"},
		// Authentication verifies the certificate later: a client with a token needs none.
		ClientAuth: tls.RequestClientCert,
		// For TLS 1.2, only suites with forward secrecy and AEAD. TLS 1.3 has no others.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if base.MinVersion == 0 {
		base.MinVersion = tls.VersionTLS13
	}
	return &tls.Config{MinVersion: base.MinVersion, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		config := base.Clone()
		config.Certificates = []tls.Certificate{*c.ServingCert.get()}
		if c.ClientCA != nil {
			config.ClientCAs = c.ClientCA.get().Roots
		}
		return config, nil
	}}
}
