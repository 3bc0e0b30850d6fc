// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/source"
)

// certificateEnds returns when the client certificate for the source expires, or zero if there is none or it cannot be read
// now.
func certificateEnds(cfg config.Source) time.Time {
	if cfg.Files != nil {
		return time.Time{}
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	client, err := source.ClientConfig(cfg, quiet)
	if err != nil {
		return time.Time{}
	}
	content := client.CertData
	if len(content) == 0 && client.CertFile != "" {
		content, _ = os.ReadFile(client.CertFile) // its user reports the error
	}
	return notAfter(content)
}

// notAfter returns the expiry of the first certificate, which is the client's own.
func notAfter(content []byte) time.Time {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}
		}
		return certificate.NotAfter
	}
	return time.Time{}
}
