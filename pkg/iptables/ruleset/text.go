// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const fullMask = 1<<32 - 1

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
		w.b = strconv.AppendFloat(w.b, float64(r.Probability)/Certain, 'f', 11, 64)
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
		r.State <= New|Established|Related|Invalid|Untracked|SNAT|DNAT && r.Direction <= Reply &&
		r.Probability <= Certain && len(r.Comment) <= MaxComment
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

// append omits the mask, which both back ends print, because the full mask is the default.
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
	case Translate:
		w.word("-j DNAT --to-destination ")
		t.appendDestination(w)
	case TranslateSource:
		w.word("-j SNAT --to-source ")
		w.address(t.Address)
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

func (t *Target) appendDestination(w *words) {
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

// words builds a text of words separated by spaces.
type words struct {
	b     []byte
	start int
	// bad is set if the text does not read back as intended.
	bad bool
}

// word adds a constant word.
func (w *words) word(s string) {
	if len(w.b) > w.start {
		w.b = append(w.b, ' ')
	}
	w.b = append(w.b, s...)
}

// option adds an option with an external value, unless the value is empty. The value must be one word, because iptables-save
// prints names without quotes.
func (w *words) option(name, value string) {
	if value == "" {
		return
	}
	w.word(name)
	w.b = append(w.b, ' ')
	if isWord(value) {
		w.b = append(w.b, value...)
		return
	}
	w.bad = true
	w.b = appendEscaped(w.b, value)
}

// isWord reports whether s needs no quoting or escaping where iptables reads and prints a name.
func isWord(s string) bool {
	for i := range len(s) {
		if special[s[i]] {
			return false
		}
	}
	return s != ""
}

// special are the bytes that need quoting or escaping in a word. A space needs no escape in quotes.
var special = [256]bool{
	0: true, 1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 9: true, 10: true, 11: true, 12: true, 13: true,
	14: true, 15: true, 16: true, 17: true, 18: true, 19: true, 20: true, 21: true, 22: true, 23: true, 24: true, 25: true, 26: true,
	27: true, 28: true, 29: true, 30: true, 31: true, ' ': true, '"': true, '\\': true, 0x7f: true,
}

// isLine reports whether s has no control bytes.
func isLine(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// appendEscaped appends s with control bytes escaped.
func appendEscaped(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f {
			b = append(b, '\\', 'x', digits[c>>4], digits[c&0xf])
		} else {
			b = append(b, c)
		}
	}
	return b
}

func (w *words) verbatim(s string) {
	w.bad = !isLine(s)
	w.b = appendEscaped(w.b, s)
}

// chain adds a jump. A chain with the name of a target cannot be expressed, because iptables would use the target.
func (w *words) chain(option, name string) {
	w.option(option, name)
	switch name {
	case "", "ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "SNAT", "MASQUERADE", "MARK", "CONNMARK", "TCPMSS", "CT":
		w.bad = true
	}
}

// address adds an address. A zone is invalid, because it would be external text.
func (w *words) address(a netip.Addr) {
	if !a.IsValid() || a.Zone() != "" {
		w.bad = true
		a = a.WithZone("")
	}
	w.b = a.AppendTo(w.b)
}

func (w *words) prefix(name string, p netip.Prefix) {
	switch {
	case p.IsValid():
		w.word(name)
		w.b = p.AppendTo(append(w.b, ' '))
	case p != netip.Prefix{}:
		w.bad = true
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

// mark adds a mark match; the full mask is omitted.
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

// quoted adds any text except control bytes: iptables-restore reads line by line and has no escape for a newline.
func (w *words) quoted(s string) {
	w.b = append(w.b, ' ', '"')
	from := 0
	for i := range len(s) {
		if !special[s[i]] {
			continue
		}
		switch c := s[i]; c {
		case ' ':
		case '"', '\\':
			w.b = append(append(w.b, s[from:i]...), '\\')
			from = i
		default:
			w.bad = true
			w.b = appendEscaped(append(w.b, s[from:i]...), s[i:i+1])
			from = i + 1
		}
	}
	w.b = append(append(w.b, s[from:]...), '"')
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
