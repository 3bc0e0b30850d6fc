// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package program

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"strings"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// FuzzGeneration feeds arbitrary nf_tables answers: the parser must not panic, and any number that it returns must be in the
// answer.
func FuzzGeneration(f *testing.F) {
	answer := func(kind int, value []byte) []byte {
		return append(make([]byte, nl.SizeofNfgenmsg), nl.NewRtAttr(kind, value).Serialize()...)
	}
	for _, seed := range [][]byte{
		nil, {1, 2}, answer(unix.NFTA_GEN_ID, []byte{0, 0, 0, 7}), answer(unix.NFTA_GEN_ID, []byte{7}), answer(2, []byte{0, 0, 0, 7}),
		append(make([]byte, nl.SizeofNfgenmsg), 0xff, 0xff, 1, 0), append(make([]byte, nl.SizeofNfgenmsg), 3, 0, 1, 0),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		if id, found := parseGeneration(answer); found && !bytes.Contains(answer, binary.BigEndian.AppendUint32(nil, id)) {
			t.Errorf("generation %d out of %x", id, answer)
		}
	})
}

// FuzzLegacyRules feeds arbitrary legacy tables: hashing must not panic and must end, and counters must not change the hash.
func FuzzLegacyRules(f *testing.F) {
	rule := func(family gateway.Family, size int) []byte {
		b := bytes.Repeat([]byte{1}, size)
		binary.NativeEndian.PutUint16(b[layouts[family].next:], uint16(size))
		return b
	}
	for _, family := range []gateway.Family{gateway.IPv4, gateway.IPv6} {
		v6, least := family == gateway.IPv6, layouts[family].counters+countersSize
		f.Add(v6, []byte{})
		f.Add(v6, make([]byte, 1000))
		f.Add(v6, append(rule(family, least), rule(family, 3*least)...))
		f.Add(v6, rule(family, 2*least)[:least+1])
	}
	f.Fuzz(func(t *testing.T, v6 bool, rules []byte) {
		l := layouts[gateway.IPv4]
		if v6 {
			l = layouts[gateway.IPv6]
		}
		sum := func(rules []byte) (uint64, error) {
			var hash maphash.Hash
			hash.SetSeed(seed)
			err := l.hashRules(&hash, rules)
			return hash.Sum64(), err
		}
		before, err := sum(rules)
		if err != nil || len(rules) <= l.counters+countersSize {
			return
		}
		counted := bytes.Clone(rules)
		counted[l.counters]++
		if after, err := sum(counted); err != nil || after != before {
			t.Errorf("a counter changes the hash: %v", err)
		}
		changed := bytes.Clone(rules)
		changed[0]++
		if after, _ := sum(changed); after == before {
			t.Error("another address does not change the hash")
		}
	})
}

// FuzzRefusal feeds arbitrary error output: any line that the error names must be in the batch, and the message must be one
// line.
func FuzzRefusal(f *testing.F) {
	const batch = "*nat\n-A A -j B\nCOMMIT\n"
	for _, stderr := range []string{
		"", "iptables-restore v1.8.9 (nf_tables): \nline 2: RULE_APPEND failed (No such file or directory): rule in chain A",
		"iptables-restore: line 2 failed", "Error occurred at line: 2\nTry `iptables-restore -h'", "line 0 failed", "line: 99999999999999999999",
		"line 5 failed", "Another app is currently holding the xtables lock. Stopped waiting after 5s.", "Fatal: can't open lock file /run/xtables.lock: No such file",
	} {
		f.Add(stderr, batch)
	}
	f.Fuzz(func(t *testing.T, stderr, batch string) {
		err := describe(&runError{command: "iptables-restore", err: errors.New("exit status 1"), stderr: stderr}, []byte(batch))
		var line *LineError
		if errors.As(err, &line) && strings.Split(batch, "\n")[line.Line-1] != line.Text {
			t.Errorf("line %d of the batch is not %q", line.Line, line.Text)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %q", err)
		}
	})
}
