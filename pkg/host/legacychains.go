// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Offsets in struct ipt_getinfo, and the return from a chain (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h).
const (
	infoHooks, infoFirst, infoPolicy = 32, 36, 56
	verdictReturn                    = 4
)

// legacyHooks returns the built-in chains by the number of their hook.
func legacyHooks() [unix.NF_INET_NUMHOOKS]string {
	return [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
}

// ReadLegacyChains returns what ReadChains does, for the tables of legacy iptables that forwarded packets meet.
func ReadLegacyChains(own gateway.Ownership) (gateway.OtherChains, error) {
	var found gateway.OtherChains
	for _, family := range legacyFamilies() {
		for _, table := range []string{"raw", "mangle", "filter"} {
			info, rules, err := family.load(table)
			if err == nil && rules != nil {
				err = family.judge(table, info, rules, own, &found)
			}
			if err != nil {
				return found, fmt.Errorf("legacy table %s: %w", table, err)
			}
		}
	}
	return found, nil
}

// judge adds the built-in chains that affect connections of Mappings.
func (f legacyFamily) judge(table string, info, rules []byte, own gateway.Ownership, to *gateway.OtherChains) error {
	hook := newForwardHook(nil, own)
	policies, err := f.chains(table, info, rules, hook)
	if err != nil {
		return err
	}
	for number, name := range legacyHooks() {
		policy, exists := policies[name]
		if !exists {
			continue
		}
		chain := hooked{BaseChain: gateway.BaseChain{Family: f.name, Table: table, Name: name, Legacy: true}, hook: uint32(number), policy: policy}
		if err := hook.judge(chain, f.family, to); err != nil {
			return err
		}
	}
	return nil
}

// chains puts the rules of all chains into the hook, and returns the policies of built-in chains. A built-in chain ends with a rule for
// its policy.
func (f legacyFamily) chains(table string, info, rules []byte, hook *forwardHook) (policies map[string]uint32, err error) {
	at := func(offset, number int) int { return int(binary.NativeEndian.Uint32(info[offset+4*number:])) }
	begins, ends := map[int]string{}, map[int]string{}
	for number, name := range legacyHooks() {
		if at(infoHooks, 0)&(1<<number) != 0 {
			begins[at(infoFirst, number)], ends[at(infoPolicy, number)] = name, name
		}
	}
	if err := f.each(rules, func(e legacyEntry) error {
		if name, isChain := e.chain(); isChain {
			begins[e.offset+len(e.rule)] = name
		}
		return nil
	}); err != nil {
		return nil, err
	}
	policies = map[string]uint32{}
	var key chainKey
	err = f.each(rules, func(e legacyEntry) error {
		if name, found := begins[e.offset]; found {
			key = chainKey{f.family, table, name}
			hook.rules[key] = nil
		}
		if _, isChain := e.chain(); isChain {
			return nil
		}
		if name, found := ends[e.offset]; found {
			policies[name] = ^uint32(e.verdict())
			return nil
		}
		rule, err := f.rule(e, begins, hook.ours)
		hook.rules[key] = append(hook.rules[key], rule)
		return err
	})
	return policies, err
}

// rule returns the parts of a rule that affect our connections. begins has the chains by their first rule.
func (f legacyFamily) rule(e legacyEntry, begins map[int]string, ours uint32) (nftRule, error) {
	var rule nftRule
	for i, b := range e.rule[:f.addressed] {
		rule.conditional = rule.conditional || b != 0 && i != f.flags
	}
	f.matches(e.rule[:e.target], func(name string, revision uint32, info []byte) {
		rule.conditional = true
		rule.extension(name, revision, info, ours)
	})
	name := e.targetName()
	if name != "" {
		rule.target(name)
		return rule, nil
	}
	switch verdict := int(e.verdict()); {
	case verdict < 0 && ^verdict != verdictReturn:
		rule.code(uint32(^verdict))
	case verdict < 0 || verdict == e.offset+len(e.rule): // to the next rule
	default:
		if rule.chain = begins[verdict]; rule.chain == "" {
			return rule, fmt.Errorf("a rule jumps to %d, where no chain begins", verdict)
		}
	}
	return rule, nil
}
