// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// ruleParser parses the words of one rule. Its methods report success; anything that is not fully understood makes the rule
// foreign.
type ruleParser struct {
	*parser
	tokens []string
	// match is the current match, which the following options belong to.
	match string
	rule  Rule
}

func (r *ruleParser) next() (string, bool) {
	if len(r.tokens) == 0 {
		return "", false
	}
	token := r.tokens[0]
	r.tokens = r.tokens[1:]
	return token, true
}

func (r *ruleParser) parse() bool {
	for len(r.tokens) > 0 {
		option, _ := r.next()
		switch option {
		case "--set", "--update":
			if !r.recent(option) {
				return false
			}
			continue
		case "--physdev-is-bridged":
			if r.match != "physdev" || r.rule.Bridged {
				return false
			}
			r.rule.Bridged = true
			continue
		case "!", "--match-set":
			if !r.sourceSet(option) {
				return false
			}
			continue
		}
		value, found := r.next()
		if !found {
			return false
		}
		var ok bool
		switch option {
		case "-j", "-g":
			return r.target(jumps[option], value)
		case "-m":
			r.match, ok = value, r.rule.Recent.Name == "" || value == "comment"
		default:
			ok = r.basic(option, value) || r.option(r.match+" "+option, value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// recent parses the whole match at once, because its options come in a fixed order and some have no value. It must be the
// last match: later ones would decide whether the packet is remembered.
func (r *ruleParser) recent(option string) bool {
	recent := &r.rule.Recent
	if r.match != "recent" || recent.Name != "" {
		return false
	}
	if option == "--update" {
		seconds, err := strconv.ParseUint(r.value("--seconds"), 10, 32)
		if err != nil || seconds == 0 || !r.flag("--reap") {
			return false
		}
		recent.Seconds = uint32(seconds)
	}
	if !r.word(&recent.Name, r.value("--name")) {
		return false
	}
	if mask := r.value("--mask"); mask != "" && mask != fullPrefix(r.family) {
		return false
	}
	r.match = ""
	return r.flag("--rsource")
}

// sourceSet parses a set match, the only match that may be negated.
func (r *ruleParser) sourceSet(option string) bool {
	set := &r.rule.SourceSet
	if r.match != "set" || set.Name != "" {
		return false
	}
	if set.Not = option == "!"; set.Not && !r.flag("--match-set") {
		return false
	}
	name, _ := r.next()
	return r.word(&set.Name, name) && r.flag("src")
}

func fullPrefix(family gateway.Family) string {
	if family == gateway.IPv6 {
		return "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	return "255.255.255.255"
}

// flag consumes word if it comes next.
func (r *ruleParser) flag(word string) bool {
	found := len(r.tokens) > 0 && r.tokens[0] == word
	if found {
		r.tokens = r.tokens[1:]
	}
	return found
}

// value consumes an option and its value if the option comes next.
func (r *ruleParser) value(option string) string {
	if len(r.tokens) < 2 || !r.flag(option) {
		return ""
	}
	value, _ := r.next()
	return value
}

// basic parses the matches that need no `-m`.
func (r *ruleParser) basic(option, value string) bool {
	switch option {
	case "-s":
		return !r.rule.Source.IsValid() && prefix(&r.rule.Source, value)
	case "-d":
		return !r.rule.Destination.IsValid() && prefix(&r.rule.Destination, value)
	case "-i":
		return r.rule.In == "" && r.word(&r.rule.In, value)
	case "-o":
		return r.rule.Out == "" && r.word(&r.rule.Out, value)
	case "-p":
		r.rule.Protocol = gateway.Protocol(r.name(value))
		return value == string(gateway.TCP) || value == string(gateway.UDP) || value == string(gateway.SCTP)
	}
	return false
}

// word parses a value that iptables-save never quotes.
func (r *ruleParser) word(into *string, value string) bool {
	*into = r.name(value)
	return value != "" && !strings.ContainsAny(value, ` "\`)
}

// option parses an option of a match, named "MATCH --OPTION". It rejects a repeated option.
func (r *ruleParser) option(name, value string) bool {
	switch name {
	case "tcp --dport", "udp --dport", "sctp --dport":
		return r.match == string(r.rule.Protocol) && r.rule.DestinationPorts == gateway.PortRange{} &&
			ports(&r.rule.DestinationPorts, value, ":") && r.rule.DestinationPorts != gateway.PortRange{}
	case "tcp --tcp-flags":
		first := !r.rule.SYN
		r.rule.SYN = true
		return first && r.rule.Protocol == gateway.TCP && value == "SYN,RST" && r.flag("SYN")
	case "multiport --dports":
		return r.rule.Protocol != "" && r.rule.Multiport == "" && r.word(&r.rule.Multiport, value)
	case "mark --mark":
		return r.rule.Mark.Mask == 0 && mark(&r.rule.Mark, value) && r.rule.Mark.Mask != 0
	case "connmark --mark":
		return r.rule.ConnMark.Mask == 0 && mark(&r.rule.ConnMark, value) && r.rule.ConnMark.Mask != 0
	case "conntrack --ctstate":
		return r.rule.State == 0 && r.states(value)
	case "conntrack --ctstatus":
		first := !r.rule.Expected
		r.rule.Expected = true
		return first && value == "EXPECTED"
	case "conntrack --ctdir":
		return r.direction(value)
	case "statistic --mode":
		return value == "random"
	case "statistic --probability":
		share, err := strconv.ParseFloat(value, 64)
		first := r.rule.Probability == 0
		r.rule.Probability = uint32(math.Round(share * ProbabilityOne))
		return err == nil && first && 0 < share && share <= 1 && r.rule.Probability != 0
	case "comment --comment":
		first := r.rule.Comment == ""
		r.rule.Comment = strings.Clone(value)
		return first
	}
	return false
}

func (r *ruleParser) states(value string) bool {
	for name := range strings.SplitSeq(value, ",") {
		before := r.rule.State
		for _, s := range stateNames {
			if s.name == name {
				r.rule.State |= s.state
			}
		}
		if r.rule.State == before {
			return false
		}
	}
	return true
}

func (r *ruleParser) direction(value string) bool {
	first := r.rule.Direction == AnyDirection
	switch value {
	case "ORIGINAL":
		r.rule.Direction = packet.Original
	case "REPLY":
		r.rule.Direction = packet.Reply
	default:
		return false
	}
	return first
}

// target parses the rest after `-j NAME` or `-g NAME`, which ends the rule.
func (r *ruleParser) target(verb Verb, name string) bool {
	t := &r.rule.Target
	switch name {
	case "ACCEPT":
		t.Verb = Accept
	case "DROP":
		t.Verb = Drop
	case "RETURN":
		t.Verb = Return
	case "MASQUERADE":
		t.Verb = Masquerade
		if value := r.value("--to-ports"); value != "" && !ports(&t.Ports, value, "-") {
			return false
		}
		t.RandomFully = r.flag("--random-fully")
	case "TCPMSS":
		t.Verb = ClampMSS
		return r.flag("--clamp-mss-to-pmtu") && len(r.tokens) == 0
	case "REJECT", "DNAT", "SNAT", "MARK", "CONNMARK", "CT":
		return r.targetWithOptions(name) && len(r.tokens) == 0
	default:
		t.Verb = verb
		return len(r.tokens) == 0 && r.chains[name] != nil && r.word(&t.Chain, name)
	}
	return len(r.tokens) == 0
}

func (r *ruleParser) targetWithOptions(name string) bool {
	t := &r.rule.Target
	option, _ := r.next()
	if name+" "+option == "CONNMARK --restore-mark" {
		t.Verb = RestoreMark
		return r.restoreMasks()
	}
	value, found := r.next()
	switch name + " " + option {
	case "REJECT ":
		t.Verb, t.RejectWith = Reject, defaultReject(r.family)
		return true
	case "REJECT --reject-with":
		t.Verb = Reject
		return found && r.word(&t.RejectWith, value)
	case "DNAT --to-destination":
		t.Verb = DNAT
		return t.parseAddress(value)
	case "SNAT --to-source":
		t.Verb = SNAT
		t.RandomFully = r.flag("--random-fully")
		return t.parseAddress(value) && t.BasePort == 0
	case "CT --helper":
		t.Verb = AssignHelper
		return found && r.word(&t.Helper, value)
	case "MARK --set-xmark":
		t.Verb = SetMark
	case "CONNMARK --set-xmark":
		t.Verb = SetConnMark
	default:
		return false
	}
	return mark(&t.Mark, value) && t.Mark.Value&^t.Mark.Mask == 0
}

// restoreMasks parses the masks of --restore-mark, which default to the full mask.
func (r *ruleParser) restoreMasks() bool {
	nfmask, ctmask := gateway.Mark{Value: fullMask}, gateway.Mark{Value: fullMask}
	for len(r.tokens) > 0 {
		option, _ := r.next()
		value, _ := r.next()
		into := map[string]*gateway.Mark{"--nfmask": &nfmask, "--ctmask": &ctmask}[option]
		if into == nil || !mark(into, value) {
			return false
		}
	}
	r.rule.Target.Mark.Mask = nfmask.Value
	return nfmask.Value == ctmask.Value
}

func defaultReject(family gateway.Family) string {
	if family == gateway.IPv6 {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}

// parseAddress parses "10.0.0.1", "10.0.0.1:80" or "[fd00::1]:8000-8009/20000".
func (t *Target) parseAddress(s string) bool {
	host, rest := s, ""
	if end := strings.LastIndexByte(s, ':'); strings.HasPrefix(s, "[") {
		end = strings.Index(s, "]")
		if end < 0 {
			return false
		}
		host, rest = s[1:end], s[end+1:]
	} else if end >= 0 && strings.Count(s, ":") == 1 {
		host, rest = s[:end], s[end:]
	}
	var err error
	if t.Address, err = netip.ParseAddr(host); err != nil {
		return false
	}
	if rest == "" {
		return true
	}
	rest, found := strings.CutPrefix(rest, ":")
	rest, base, hasBase := strings.Cut(rest, "/")
	if hasBase {
		port, err := strconv.ParseUint(base, 10, 16)
		if err != nil {
			return false
		}
		t.BasePort = uint16(port)
	}
	return found && ports(&t.Ports, rest, "-")
}

func prefix(into *netip.Prefix, s string) bool {
	if strings.IndexByte(s, '/') < 0 {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return false
		}
		*into = netip.PrefixFrom(addr, addr.BitLen())
		return true
	}
	var err error
	*into, err = netip.ParsePrefix(s)
	return err == nil
}

func ports(into *gateway.PortRange, s, separator string) bool {
	first, last, ranged := strings.Cut(s, separator)
	if !ranged {
		last = first
	}
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	*into = gateway.PortRange{First: uint16(low), Last: uint16(high)}
	return err1 == nil && err2 == nil
}

// mark parses "0x10/0x1f", or "0x10" with the full mask.
func mark(into *gateway.Mark, s string) bool {
	value, mask, masked := strings.Cut(s, "/")
	if !masked {
		mask = "0xffffffff"
	}
	v, err1 := strconv.ParseUint(value, 0, 32)
	m, err2 := strconv.ParseUint(mask, 0, 32)
	*into = gateway.Mark{Value: uint32(v), Mask: uint32(m)}
	return err1 == nil && err2 == nil
}
