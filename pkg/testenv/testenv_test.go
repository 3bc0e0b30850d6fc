// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package testenv

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestMain(m *testing.M) { Main(m) }

func TestNamespaceIsEmptyAndOurs(t *testing.T) {
	RequireKernel(t)
	if os.Getpid() != 1 {
		t.Errorf("pid = %d, want 1 in a new PID namespace", os.Getpid())
	}
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			NewNetNS(t)
			links, err := netlink.LinkList()
			if err != nil {
				t.Fatal(err)
			}
			if len(links) != 1 {
				t.Errorf("%d links, want only lo", len(links))
			}
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "left-behind"}}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
