// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Feature is a set of rules that iptables or the kernel may not support.
type Feature struct {
	// Name is the purpose. Modules are the kernel modules that it needs with iptables, NFTables with nftables.
	Name, Modules, NFTables string
	// Essential is set if nothing works without it.
	Essential bool
	// State has rules that need the feature.
	State gateway.State
}

// Features returns all features. Their States have nothing else.
func Features(clampMSS, consistent bool) []Feature {
	backends := []gateway.Backend{
		{Address: netip.MustParseAddr("192.0.2.1"), Port: 1}, {Address: netip.MustParseAddr("192.0.2.2"), Port: 1},
	}
	forward := func(change func(*gateway.Forward)) gateway.State {
		f := &gateway.Forward{
			Frontend: gateway.Frontend{Address: netip.MustParseAddr("198.51.100.1"), Protocol: gateway.TCP, Ports: gateway.Port(1)},
			Owner:    "check/check", Backends: backends[:1], Masquerade: true,
		}
		change(f)
		return gateway.State{
			Forwards: []*gateway.Forward{f},
			Uplinks:  []gateway.Uplink{{Link: "lo", Number: 1}},
		}
	}
	features := []Feature{
		{
			Name: "forwarding", Modules: "nf_nat, xt_conntrack, xt_connmark, xt_mark, xt_comment, xt_MASQUERADE", NFTables: "nf_tables, nft_chain_nat, nft_nat, nft_ct, nft_masq, nft_numgen, nft_reject_inet", Essential: true,
			State: forward(func(*gateway.Forward) {}),
		},
		{
			Name: "several endpoints", Modules: "xt_statistic", NFTables: "nft_numgen",
			State: forward(func(f *gateway.Forward) { f.Direct, f.Backends = true, backends }),
		},
		{
			Name: "session affinity", Modules: "xt_recent", NFTables: "nf_tables sets with timeouts",
			State: forward(func(f *gateway.Forward) { f.Direct, f.Backends, f.Affinity = true, backends, time.Hour }),
		},
		{
			Name: "refusal of connections to a Service without endpoints", Modules: "ipt_REJECT, ip6t_REJECT", NFTables: "nft_reject_ipv4, nft_reject_ipv6",
			State: forward(func(f *gateway.Forward) { f.Backends = nil }),
		},
	}
	if clampMSS {
		state := forward(func(*gateway.Forward) {})
		state.ClampMSS = true
		features = append(features, Feature{Name: "clampMSS", Modules: "xt_TCPMSS", NFTables: "nft_exthdr", State: state})
	}
	if consistent {
		features = append(features, Feature{
			Name: "endpointChoice: maglev", NFTables: "nft_hash", Essential: true,
			State: forward(func(f *gateway.Forward) { f.Direct, f.Backends, f.Consistent = true, backends, true }),
		})
	}
	return features
}

// Rules tries each Feature with a data plane, and reports refused ones with what is missing.
func Rules(dataplane string, features []Feature, try func(gateway.State) error, osRelease, kernel string) []Line {
	what := dataplane + " rules"
	var lines []Line
	for _, f := range features {
		err := try(f.State)
		if err == nil {
			continue
		}
		level := Warning
		if f.Essential {
			level = Failed
		}
		modules, advice := f.Modules, install(osRelease, kernel)
		if dataplane == config.DataplaneNFTables {
			modules, advice = f.NFTables, "it needs Linux 5.9, and this is "+kernel
		} else if f.Essential {
			advice += ", or set dataplane: nftables, which needs none of them"
		}
		lines = append(lines, one(level, what, "%s is refused (it needs %s): %s; %s", f.Name, modules, err, advice)...)
		if f.Essential {
			return lines // the others would be refused too
		}
	}
	if len(lines) == 0 {
		return ok(what, "tried in a separate network namespace")
	}
	return lines
}

// install returns which package has the kernel's modules, by os-release(5).
func install(osRelease, kernel string) string {
	ids := ""
	for line := range strings.Lines(osRelease) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key == "ID" || key == "ID_LIKE" {
			ids += " " + strings.Trim(value, `"'`) + " "
		}
	}
	switch {
	case strings.Contains(ids, " rhel ") || strings.Contains(ids, " fedora "):
		return fmt.Sprintf("dnf install kernel-modules-extra-%s has nft_compat and the xt_ modules", kernel)
	case strings.Contains(ids, " ubuntu "):
		return fmt.Sprintf("apt install linux-modules-extra-%s has them", kernel)
	}
	return "install the package with all modules of kernel " + kernel
}
