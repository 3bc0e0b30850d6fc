// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/objects"
)

// ForwardTables checks tables of iptables on a host whose rules for Mappings are in nftables: an accept ends only the evaluation
// of its own chain (nft(8), VERDICT STATEMENT), so that FORWARD may still drop the packet, as it does with Docker and ufw. program
// is the iptables that shows the tables; works means that Mappings could use it.
func ForwardTables(tables ruleset.Ruleset, program string, own gateway.Ownership, works bool) []Line {
	i := slices.IndexFunc(tables.Tables, func(t ruleset.Table) bool { return t.Name == "filter" })
	if i < 0 {
		return nil
	}
	chains := map[string]*ruleset.Chain{}
	for _, c := range tables.Tables[i].Chains {
		chains[c.Name] = c
	}
	forward, found := chains["FORWARD"]
	if !found {
		return nil
	}
	switch (forwardChains{chains, own.Forwarded()}).follow(forward, 0) {
	case accepted:
		return nil
	case undecided:
		if forward.Policy != "DROP" {
			return nil
		}
	}
	mend := mendForward(chains, program, tables.Family, own.Forwarded())
	if works {
		mend += "; or set dataplane: iptables, whose accept counts there"
	}
	return one(Warning, "FORWARD", "the IPv%d chain FORWARD drops what is forwarded for Mappings, as an accept in nftables does not count there: %s", tables.Family, mend)
}

// mendForward returns the command that lets connections of Mappings pass, in the chain that is meant for it.
func mendForward(chains map[string]*ruleset.Chain, program string, family gateway.Family, mark gateway.Mark) string {
	rule := fmt.Sprintf("-m connmark --mark %#x/%#x -j ACCEPT", mark.Value, mark.Mask)
	switch {
	case chains["DOCKER-USER"] != nil:
		return fmt.Sprintf("%s -I DOCKER-USER %s", program, rule)
	case chains["ufw-before-forward"] != nil || chains["ufw6-before-forward"] != nil:
		chain, file := "ufw-before-forward", "before.rules"
		if family == gateway.IPv6 {
			chain, file = "ufw6-before-forward", "before6.rules"
		}
		return fmt.Sprintf("%s -I %s %s, and -A %[2]s %[3]s in /etc/ufw/%[4]s, so that it stays", program, chain, rule, file)
	}
	return fmt.Sprintf("%s -I FORWARD %s", program, rule)
}

// fate is the result of a chain for the first packet of a connection of a Mapping.
type fate int

const (
	undecided fate = iota
	accepted
	dropped
)

// forwardChains follows such a packet through the chains of a table.
type forwardChains struct {
	chains map[string]*ruleset.Chain
	ours   gateway.Mark
}

// chainDepth bounds jumps. The kernel refuses loops.
const chainDepth = 32

// follow takes an accept with a condition that connections of Mappings fulfill for an accept, and ignores drops with a condition.
func (f forwardChains) follow(chain *ruleset.Chain, depth int) fate {
	if chain == nil || depth > chainDepth {
		return undecided
	}
	for _, r := range chain.Rules {
		conditions, target := splitRule(r.String())
		conditional := len(conditions) > 0
		switch target {
		case "ACCEPT":
			if !conditional || f.matches(conditions) {
				return accepted
			}
		case "DROP", "REJECT":
			if !conditional {
				return dropped
			}
		case "RETURN":
			if !conditional {
				return undecided
			}
		default:
			switch becomes := f.follow(f.chains[target], depth+1); {
			case becomes == accepted, becomes == dropped && !conditional:
				return becomes
			}
		}
	}
	return undecided
}

// splitRule returns the words that are conditions, and the target. Comments and options of the target are no conditions.
func splitRule(text string) (conditions []string, target string) {
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "-j", "-g":
			if i+1 < len(words) {
				target = words[i+1]
			}
			return conditions, target
		case "-m":
			if i+1 < len(words) && words[i+1] == "comment" {
				i++
				continue
			}
		case "--comment":
			i++
			if i < len(words) && strings.HasPrefix(words[i], `"`) {
				for i+1 < len(words) && !strings.HasSuffix(words[i], `"`) {
					i++
				}
			}
			continue
		}
		conditions = append(conditions, words[i])
	}
	return conditions, ""
}

// matches reports whether a condition is about connections of Mappings: their mark, or that they are translated.
func (f forwardChains) matches(conditions []string) bool {
	for i, word := range conditions {
		if i == 0 || i+1 >= len(conditions) || conditions[i-1] == "!" {
			continue
		}
		argument := conditions[i+1]
		switch word {
		case "--ctstate", "--ctstatus":
			if slices.Contains(strings.Split(argument, ","), "DNAT") {
				return true
			}
		case "--mark":
			if slices.Contains(conditions[:i], "connmark") && f.hasMark(argument) {
				return true
			}
		}
	}
	return false
}

// hasMark reports whether the mark of connections of Mappings fulfills VALUE/MASK because of our bit.
func (f forwardChains) hasMark(argument string) bool {
	value, mask, masked := strings.Cut(argument, "/")
	if !masked {
		mask = "0xffffffff"
	}
	v, valueErr := strconv.ParseUint(value, 0, 32)
	m, maskErr := strconv.ParseUint(mask, 0, 32)
	return valueErr == nil && maskErr == nil && uint32(v)&f.ours.Mask == f.ours.Value && uint32(m)&f.ours.Mask == f.ours.Mask
}

// manyPorts is the number of ports from which on a change with iptables takes noticeable time: about 10 ms.
const manyPorts = 2000

// Scale recommends nftables for many ports.
func Scale(snapshot objects.Snapshot, host gateway.Host, cfg config.Config, dataplane string) []Line {
	state, _ := calc.Calculate(snapshot, host, cfg)
	return scale(len(state.Forwards), dataplane)
}

func scale(ports int, dataplane string) []Line {
	if dataplane != config.DataplaneIPTables || ports <= manyPorts {
		return nil
	}
	return ok("dataplane", "with %d ports, each change takes iptables time that grows with their number; with dataplane: nftables it takes the same time for any number", ports)
}
