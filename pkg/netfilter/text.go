// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const fullMask = 1<<32 - 1

// String spells the rule as iptables does, behind `-A CHAIN`.
func (r Rule) String() string { return string(r.append(nil)) }

// append adds the rule's text to b, in the order in which iptables-save prints it.
func (r *Rule) append(b []byte) []byte {
	if r.Foreign != "" {
		return append(b, r.Foreign...)
	}
	w := words{b, len(b)}
	w.prefix("-s", r.Source)
	w.prefix("-d", r.Destination)
	w.option("-i", r.In)
	w.option("-o", r.Out)
	w.option("-p", string(r.Protocol))
	if r.DestinationPorts != (gateway.PortRange{}) || r.SYN {
		w.option("-m", string(r.Protocol))
	}
	if r.DestinationPorts != (gateway.PortRange{}) {
		w.word("--dport")
		w.ports(r.DestinationPorts, ':')
	}
	if r.SYN {
		w.word("--tcp-flags SYN,RST SYN")
	}
	if r.Multiport != "" {
		w.word("-m multiport --dports")
		w.word(r.Multiport)
	}
	r.SourceSet.append(&w)
	w.mark("-m mark --mark", r.Mark)
	w.mark("-m connmark --mark", r.ConnMark)
	r.appendConntrack(&w)
	if r.Probability != 0 {
		w.word("-m statistic --mode random --probability ")
		w.b = strconv.AppendFloat(w.b, float64(r.Probability)/Certain, 'f', 11, 64)
	}
	r.Recent.append(&w)
	if r.Comment != "" {
		w.word("-m comment --comment")
		w.quoted(r.Comment)
	}
	r.Target.append(&w)
	return w.b
}

func (m *SetMatch) append(w *words) {
	if m.Name == "" {
		return
	}
	w.word("-m set")
	if m.Not {
		w.word("!")
	}
	w.option("--match-set", m.Name)
	w.word("src")
}

// append leaves out the mask, which both back ends print: it is the full one where none is said.
func (r *Recent) append(w *words) {
	if r.Name == "" {
		return
	}
	if r.Seconds == 0 {
		w.word("-m recent --set")
	} else {
		w.word("-m recent --update --seconds ")
		w.b = strconv.AppendUint(w.b, uint64(r.Seconds), 10)
		w.word("--reap")
	}
	w.option("--name", r.Name)
	w.word("--rsource")
}

func (r *Rule) appendConntrack(w *words) {
	if r.State == 0 && r.Direction == AnyDirection {
		return
	}
	w.word("-m conntrack")
	if r.State != 0 {
		w.word("--ctstate")
		separator := byte(' ')
		for _, s := range stateNames {
			if r.State&s.state != 0 {
				w.b = append(append(w.b, separator), s.name...)
				separator = ','
			}
		}
	}
	switch r.Direction {
	case Original:
		w.word("--ctdir ORIGINAL")
	case Reply:
		w.word("--ctdir REPLY")
	}
}

// stateNames are in the order in which libxt_conntrack prints them.
var stateNames = []struct {
	state CTState
	name  string
}{
	{Invalid, "INVALID"}, {New, "NEW"}, {Related, "RELATED"}, {Established, "ESTABLISHED"},
	{Untracked, "UNTRACKED"}, {SNAT, "SNAT"}, {DNAT, "DNAT"},
}

func (t *Target) append(w *words) {
	switch t.Verb {
	case Jump:
		w.option("-j", t.Chain)
	case Goto:
		w.option("-g", t.Chain)
	case Accept:
		w.word("-j ACCEPT")
	case Drop:
		w.word("-j DROP")
	case Return:
		w.word("-j RETURN")
	case Reject:
		w.option("-j REJECT --reject-with", t.RejectWith)
	case Translate:
		w.word("-j DNAT --to-destination ")
		t.appendDestination(w)
	case TranslateSource:
		w.word("-j SNAT --to-source ")
		w.b = t.Address.AppendTo(w.b)
		t.appendRandomFully(w)
	case Masquerade:
		w.word("-j MASQUERADE")
		t.appendRandomFully(w)
	case SetMark:
		w.operand("-j MARK --set-xmark", t.Mark)
	case SetConnMark:
		w.operand("-j CONNMARK --set-xmark", t.Mark)
	case RestoreMark:
		w.word("-j CONNMARK --restore-mark --nfmask")
		w.hex(" 0x", t.Mark.Mask)
		w.word("--ctmask")
		w.hex(" 0x", t.Mark.Mask)
	case ClampMSS:
		w.word("-j TCPMSS --clamp-mss-to-pmtu")
	}
}

func (t *Target) appendRandomFully(w *words) {
	if t.RandomFully {
		w.word("--random-fully")
	}
}

func (t *Target) appendDestination(w *words) {
	if t.Ports == (gateway.PortRange{}) {
		w.b = t.Address.AppendTo(w.b)
		return
	}
	w.b = netip.AddrPortFrom(t.Address, t.Ports.First).AppendTo(w.b)
	if !t.Ports.Single() {
		w.b = strconv.AppendUint(append(w.b, '-'), uint64(t.Ports.Last), 10)
	}
	if t.BasePort != 0 {
		w.b = strconv.AppendUint(append(w.b, '/'), uint64(t.BasePort), 10)
	}
}

// words is text under construction, its words set off by spaces.
type words struct {
	b     []byte
	start int
}

func (w *words) word(s string) {
	if len(w.b) > w.start {
		w.b = append(w.b, ' ')
	}
	w.b = append(w.b, s...)
}

func (w *words) option(name, value string) {
	if value != "" {
		w.word(name)
		w.word(value)
	}
}

func (w *words) prefix(name string, p netip.Prefix) {
	if p.IsValid() {
		w.word(name)
		w.b = p.AppendTo(append(w.b, ' '))
	}
}

func (w *words) ports(r gateway.PortRange, separator byte) {
	w.b = strconv.AppendUint(append(w.b, ' '), uint64(r.First), 10)
	if !r.Single() {
		w.b = strconv.AppendUint(append(w.b, separator), uint64(r.Last), 10)
	}
}

func (w *words) hex(lead string, v uint32) {
	w.b = strconv.AppendUint(append(w.b, lead...), uint64(v), 16)
}

// mark spells a match: the full mask is not said.
func (w *words) mark(name string, m gateway.Mark) {
	switch m.Mask {
	case 0:
	case fullMask:
		w.word(name)
		w.hex(" 0x", m.Value)
	default:
		w.operand(name, m)
	}
}

func (w *words) operand(name string, m gateway.Mark) {
	w.word(name)
	w.hex(" 0x", m.Value)
	w.hex("/0x", m.Mask)
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func (w *words) quoted(s string) {
	w.b = append(w.b, ' ', '"')
	w.b = append(append(w.b, escaper.Replace(s)...), '"')
}
