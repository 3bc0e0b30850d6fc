// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab_test

import (
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestRenewGateway(t *testing.T) {
	ctx := testContext(t, 2*time.Minute)
	l := lab.New(t, lab.WithoutControlPlane(), lab.WithVariant("legacy"))
	reach := func() {
		t.Helper()
		server, err := l.Host(lab.Gateway).Serve(7)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		for _, address := range []string{lab.External1, lab.External1v6} {
			if _, err := l.Host(lab.Router).EchoTCP(ctx, lab.Join(address, 7)); err != nil {
				t.Error(err)
			}
		}
	}
	reach()
	old := l.Host(lab.Gateway)
	exec(ctx, t, old, "iptables", "-t", "nat", "-N", "OLD")
	if err := old.WriteFile("/etc/smartnat.yaml", "old"); err != nil {
		t.Fatal(err)
	}
	process, err := old.Start("sleep", nil, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := l.Host(lab.Router).Start("sleep", nil, "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}

	if err := l.RenewGateway(ctx, lab.WithVariant("nf_tables")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-process.Done():
	default:
		t.Error("a process of the old gateway is still running")
	}
	select {
	case <-elsewhere.Done():
		t.Error("a process of another host ended")
	default:
	}
	gateway := l.Host(lab.Gateway)
	if version := exec(ctx, t, gateway, "iptables", "--version"); !strings.Contains(version, "nf_tables") {
		t.Errorf("iptables --version = %q, want nf_tables", version)
	}
	for _, program := range []string{"iptables-legacy-save", "iptables-nft-save"} {
		if rules := exec(ctx, t, gateway, program); strings.Contains(rules, "OLD") {
			t.Errorf("a chain of the old gateway remains:\n%s", rules)
		}
	}
	if text, err := gateway.ReadFile("/etc/smartnat.yaml"); err == nil {
		t.Errorf("a file of the old gateway remains: %s", text)
	}
	reach()
}
