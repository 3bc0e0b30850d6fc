// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// full is the usage of the connection table, in percent, that causes a warning.
const full = 80

// Conntrack checks the size of the kernel's connection table: if it is full, the kernel drops the first packets of new
// connections.
func Conntrack(count, limit int) []Line {
	const what, percent = "conntrack", 100
	if limit > 0 && count*percent >= limit*full {
		return one(Warning, what, "%d of %d entries are used; new connections are dropped when it is full: raise net.netfilter.nf_conntrack_max", count, limit)
	}
	return ok(what, "%d of %d entries are used", count, limit)
}

// ForwardPolicy checks the policy of the built-in chain FORWARD. Docker and some firewalls set DROP.
func ForwardPolicy(tables ruleset.Ruleset) []Line {
	for _, t := range tables.Tables {
		for _, c := range t.Chains {
			if c.Name == "FORWARD" && c.Policy == "DROP" {
				return one(Warning, "FORWARD", "the IPv%d policy of table %s is DROP (Docker sets that): Mappings are accepted before it, "+
					"other connections, such as those that pods open to the outside, need a rule of their own, for example in DOCKER-USER", tables.Family, t.Name)
			}
		}
	}
	return nil
}

// ForwardHook reports such chains. dataplane is the one that has our rules. readable means that iptables shows its own chains in
// nf_tables: then ForwardPolicy or ForwardTables checks them.
func ForwardHook(chains []gateway.BaseChain, dataplane string, readable bool, own gateway.Ownership) []Line {
	var lines []Line
	for _, c := range chains {
		if c.EgressOnly || readable && c.OfIPTables() {
			continue
		}
		lines = append(lines, one(Warning, "nftables", "%s drops what is forwarded for Mappings, as an accept in %s does not count there: %s",
			c, dataplane, c.Remedy(own))...)
	}
	return lines
}

// IPRule is a policy routing rule of another program.
type IPRule struct {
	Family   gateway.Family
	Priority int
	// Text is the rule as ip(8) prints it.
	Text string
}

// IPRules reports rules before ours, except for the table local, which always comes first.
func IPRules(rules []IPRule, own gateway.Ownership) []Line {
	var before []string
	for _, r := range rules {
		if 0 < r.Priority && r.Priority < own.RulePriority {
			before = append(before, fmt.Sprintf("IPv%d %s", r.Family, r.Text))
		}
	}
	if len(before) == 0 {
		return ok("ip rules", "none precedes ours (priority %d)", own.RulePriority)
	}
	var lines []Line
	for _, text := range before {
		lines = append(lines, one(Warning, "ip rules", "%q precedes ours (priority %d): replies that it matches may leave by another uplink; "+
			"give it a higher priority number, or set ownership.rulePriority below it", text, own.RulePriority)...)
	}
	return lines
}

// Networkd checks the configuration of systemd-networkd. files are in order of precedence, the last one wins. By default
// networkd removes rules and routes of other programs when it starts (networkd.conf(5)).
func Networkd(files []string) []Line {
	settings := map[string]string{}
	for _, text := range files {
		section := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = line
			}
			if key, value, found := strings.Cut(line, "="); found && section == "[Network]" {
				settings[strings.TrimSpace(key)] = strings.ToLower(strings.TrimSpace(value))
			}
		}
	}
	var unset []string
	for _, key := range []string{"ManageForeignRoutingPolicyRules", "ManageForeignRoutes"} {
		switch settings[key] {
		case "no", "false", "off", "0", "n", "f":
		default:
			unset = append(unset, key+"=no")
		}
	}
	if len(unset) == 0 {
		return ok("systemd-networkd", "leaves rules and routes of other programs alone")
	}
	return one(Warning, "systemd-networkd", "removes rules and routes of other programs when it restarts, and smartnatd puts them back seconds later: "+
		"set %s in section [Network] of /etc/systemd/networkd.conf.d/smartnat.conf", strings.Join(unset, " and "))
}
