// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// String returns the rule as iptables spells it after `-A CHAIN`, on one printable line. If iptables-restore could not read
// the rule, control bytes are escaped.
func (r Rule) String() string {
	b, _ := r.append(nil)
	return string(b)
}

// append appends the text of the rule in the order of iptables-save. It reports whether the text is one line that reads back
// as this rule. If not, the text is only for display; it still is one line without control bytes.
func (r *Rule) append(b []byte) ([]byte, bool) {
	w := words{b: b, start: len(b)}
	if r.Foreign != "" {
		w.verbatim(r.Foreign)
		return w.b, !w.bad
	}
	w.bad = !r.wellFormed()
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
	w.option("-m multiport --dports", r.Multiport)
	r.SourceSet.append(&w)
	if r.Bridged {
		w.word("-m physdev --physdev-is-bridged")
	}
	w.mark("-m mark --mark", r.Mark)
	w.mark("-m connmark --mark", r.ConnMark)
	r.appendConntrack(&w)
	if r.Probability != 0 {
		w.word("-m statistic --mode random --probability ")
		w.b = strconv.AppendFloat(w.b, float64(r.Probability)/ProbabilityOne, 'f', 11, 64)
	}
	r.Recent.append(&w)
	if r.Comment != "" {
		w.word("-m comment --comment")
		w.quoted(r.Comment)
	}
	r.Target.append(&w)
	return w.b, !w.bad
}

// wellFormed reports whether the matches have what they require and all numbers can be expressed.
func (r *Rule) wellFormed() bool {
	switch r.Protocol {
	case "":
		if r.DestinationPorts != (gateway.PortRange{}) || r.SYN || r.Multiport != "" {
			return false
		}
	case gateway.TCP:
	case gateway.UDP, gateway.SCTP:
		if r.SYN {
			return false
		}
	default:
		return false
	}
	return (r.SourceSet.Name != "" || !r.SourceSet.Not) && (r.Recent.Name != "" || r.Recent.Seconds == 0) &&
		(r.Mark.Mask != 0 || r.Mark.Value == 0) && (r.ConnMark.Mask != 0 || r.ConnMark.Value == 0) &&
		r.State <= packet.New|packet.Established|packet.Related|packet.Invalid|packet.Untracked|packet.SNAT|packet.DNAT && r.Direction <= packet.Reply &&
		r.Probability <= ProbabilityOne && len(r.Comment) <= MaxComment
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

// append omits the mask, which both variants print, because the full mask is the default.
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
	if r.State == 0 && !r.Expected && r.Direction == AnyDirection {
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
	if r.Expected {
		w.word("--ctstatus EXPECTED")
	}
	switch r.Direction {
	case packet.Original:
		w.word("--ctdir ORIGINAL")
	case packet.Reply:
		w.word("--ctdir REPLY")
	}
}

// stateNames are in the order in which libxt_conntrack prints them.
var stateNames = []struct {
	state packet.State
	name  string
}{
	{packet.Invalid, "INVALID"}, {packet.New, "NEW"}, {packet.Related, "RELATED"}, {packet.Established, "ESTABLISHED"},
	{packet.Untracked, "UNTRACKED"}, {packet.SNAT, "SNAT"}, {packet.DNAT, "DNAT"},
}

func (t *Target) append(w *words) {
	switch t.Verb {
	case None:
	case Jump:
		w.chain("-j", t.Chain)
	case Goto:
		w.chain("-g", t.Chain)
	case Accept:
		w.word("-j ACCEPT")
	case Drop:
		w.word("-j DROP")
	case Return:
		w.word("-j RETURN")
	case Reject:
		w.option("-j REJECT --reject-with", t.RejectWith)
		w.bad = w.bad || t.RejectWith == ""
	case DNAT:
		w.word("-j DNAT --to-destination ")
		t.appendAddress(w)
	case SNAT:
		w.word("-j SNAT --to-source ")
		t.appendAddress(w)
		w.bad = w.bad || t.BasePort != 0
		t.appendRandomFully(w)
	case Masquerade:
		w.word("-j MASQUERADE")
		if t.Ports != (gateway.PortRange{}) {
			w.word("--to-ports")
			w.ports(t.Ports, '-')
		}
		t.appendRandomFully(w)
	case SetMark:
		w.operand("-j MARK --set-xmark", t.Mark)
		w.bad = w.bad || t.Mark.Value&^t.Mark.Mask != 0
	case SetConnMark:
		w.operand("-j CONNMARK --set-xmark", t.Mark)
		w.bad = w.bad || t.Mark.Value&^t.Mark.Mask != 0
	case RestoreMark:
		w.word("-j CONNMARK --restore-mark --nfmask")
		w.hex(" 0x", t.Mark.Mask)
		w.word("--ctmask")
		w.hex(" 0x", t.Mark.Mask)
	case ClampMSS:
		w.word("-j TCPMSS --clamp-mss-to-pmtu")
	case AssignHelper:
		w.option("-j CT --helper", t.Helper)
		w.bad = w.bad || t.Helper == ""
	default:
		w.bad = true
	}
}

func (t *Target) appendRandomFully(w *words) {
	if t.RandomFully {
		w.word("--random-fully")
	}
}

func (t *Target) appendAddress(w *words) {
	if t.Ports == (gateway.PortRange{}) {
		w.address(t.Address)
		w.bad = w.bad || t.BasePort != 0
		return
	}
	if !t.Address.IsValid() || t.Address.Zone() != "" {
		w.address(t.Address)
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

// Comment converts any text to a comment: printable ASCII of at most MaxComment bytes, with other bytes as %XX. Text that
// already fits, such as any name in Kubernetes, stays unchanged.
func Comment(s string) string {
	plain := func(c byte) bool { return ' ' <= c && c < 0x7f }
	if n := min(len(s), MaxComment); strings.IndexFunc(s[:n], func(r rune) bool { return r >= 0x7f || !plain(byte(r)) }) < 0 {
		return s[:n]
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, MaxComment)
	for i := range len(s) {
		c := s[i]
		switch {
		case plain(c) && len(b) < MaxComment:
			b = append(b, c)
		case !plain(c) && len(b)+3 <= MaxComment:
			b = append(b, '%', digits[c>>4], digits[c&0xf])
		default:
			return string(b)
		}
	}
	return string(b)
}
