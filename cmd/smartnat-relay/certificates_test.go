// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"net/http"
	"strings"
	"testing"
)

// testCertificates replaces the certificate files of a running relay.
func testCertificates(t *testing.T, p *controlPlane) {
	// If inotify watches are exhausted, the relay reads the files once a minute.
	const reload = 2 * patience
	t.Cleanup(func() {
		for line := range strings.Lines(p.log.String()) {
			if t.Failed() && strings.Contains(line, "level=warning") {
				t.Log(line)
			}
		}
	})
	shown := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(relayURL, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	p.issue("renewed", pkix.Name{CommonName: "renewed"})
	p.write("relay.crt", []byte("not a certificate"))
	p.write("relay.key", []byte(p.read("renewed.key")))
	p.within(reload, "the warning about the broken file", func() bool {
		return strings.Contains(p.log.String(), "level=warning") && strings.Contains(p.log.String(), "failed to find any PEM data")
	})
	if got := shown(); got != "smartnat-relay" {
		t.Errorf("with a broken file, the certificate is %q", got)
	}
	p.write("relay.crt", []byte(p.read("renewed.crt")))
	p.within(reload, "the renewed certificate", func() bool { return shown() == "renewed" })

	p.issue("certified-gateway", pkix.Name{CommonName: "certified-gateway"})
	client := p.client("certified-gateway")
	if got := p.ask(client, listPath, ""); got != http.StatusOK {
		t.Errorf("a client certificate: %d", got)
	}
	ended := p.watch(client, "")
	p.write("clients.crt", newAuthority(t).pem())
	ended()
	p.within(reload, "a certificate of the removed CA to be refused", func() bool {
		return p.ask(client, listPath, "") == http.StatusUnauthorized
	})
	p.write("clients.crt", p.ca.pem())
	p.within(reload, "the certificate to be accepted again", func() bool { return p.ask(client, listPath, "") == http.StatusOK })
}
