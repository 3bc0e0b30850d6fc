// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"strconv"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const fullMask = 1<<32 - 1

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
