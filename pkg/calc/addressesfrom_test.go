// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestAnUplinkWithTooManyAddresses gives an uplink more addresses than a Mapping may have.
func TestAnUplinkWithTooManyAddresses(t *testing.T) {
	const held = v1alpha1.MaxAddresses + 3
	snapshot, host, cfg := readScenario(t, "testdata/addresses-from-render")
	cfg.AnyAddress = false
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	link := gateway.Link{Name: "eth1", Up: true}
	for i := range held {
		link.Addresses = append(link.Addresses, netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/24", 10+i)))
	}
	host.Links = []gateway.Link{link}
	calculator := calc.NewCalculator(cfg)
	state, findings := calculator.Calculate(snapshot, host)
	if len(state.Forwards) != v1alpha1.MaxAddresses {
		t.Errorf("%d Forwards, want %d", len(state.Forwards), v1alpha1.MaxAddresses)
	}
	// The Mapping itself names one of the addresses.
	resolved := calculator.Resolved()[types.NamespacedName{Namespace: "default", Name: "echo"}]
	if len(resolved.Addresses) != v1alpha1.MaxAddresses-1 || strings.Join(resolved.Uplinks, " ") != "eth1 *" {
		t.Errorf("%d addresses of %v, want %d of eth1 and *", len(resolved.Addresses), resolved.Uplinks, v1alpha1.MaxAddresses-1)
	}
	leftOut := map[string]bool{}
	for _, f := range findings {
		if f.Reason == finding.ReasonTooManyAddresses {
			address, _, _ := strings.Cut(f.Message, " ")
			leftOut[address] = f.Blocks()
		}
	}
	for i := v1alpha1.MaxAddresses; i < held; i++ {
		if address := fmt.Sprintf("198.51.100.%d", 10+i); !leftOut[address] {
			t.Errorf("no finding says that %s is left out: %v", address, leftOut)
		}
	}
	if len(leftOut) != held-v1alpha1.MaxAddresses {
		t.Errorf("left out: %v", leftOut)
	}
}
