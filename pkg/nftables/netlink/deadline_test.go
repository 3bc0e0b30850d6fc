// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestLongTransaction expects that a transaction which outlasts the deadline of the request before it succeeds.
func TestLongTransaction(t *testing.T) {
	testenv.NewNetNS(t)
	c, err := New(Options{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.conn.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	tx := NewTransaction("smartnat", gateway.IPv4)
	tx.AddTable(0)
	if err := c.Commit(tx); err != nil {
		t.Error(err)
	}
}
