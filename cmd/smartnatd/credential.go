// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/source"
)

// credentialEnds returns when the first credential for the source expires, a client certificate or a token. It is zero if none
// expires, or if it cannot be read now.
func credentialEnds(cfg config.Source) time.Time {
	if cfg.Files != nil {
		return time.Time{}
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	client, err := source.ClientConfig(cfg, quiet)
	if err != nil {
		return time.Time{}
	}
	token := client.BearerTokenFile
	if cfg.Relay != nil {
		token = cfg.Relay.TokenFile
	}
	return earlier(credentialEnd(client.CertData, client.CertFile), credentialEnd([]byte(client.BearerToken), token))
}

// credentialEnd returns the end of the content or, if there is none, of the file.
func credentialEnd(content []byte, path string) time.Time {
	if len(content) == 0 && path != "" {
		content, _ = os.ReadFile(path) // its user reports the error
	}
	_, ends := check.Lifetime(content)
	return ends
}

// earlier returns the earlier of two times. Zero is no time.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
