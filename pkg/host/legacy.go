// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Socket options of ip_tables and ip6_tables, offsets in struct ipt_getinfo and ipt_get_entries, and the size of struct
// xt_entry_match and xt_entry_target (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h).
const (
	getInfo     = 64
	getEntries  = 65
	infoLength  = 84
	infoEntries = 80
	tableName   = 32
	entriesAt   = 40
	matchHeader = 32
	matchName   = 2
	nameLength  = 29
	errorTarget = "ERROR"
	// matchRevision follows the name.
	matchRevision = matchName + nameLength
)

// legacyFamily is the layout of struct ipt_entry or ip6t_entry.
type legacyFamily struct {
	name          string
	family        uint8
	names         string
	level, domain int
	address, size int // the destination and its length
	protocol      int
	flags         int // those that are no condition
	addressed     int // the size of struct ipt_ip or ip6t_ip6
	target, next  int
	header        int
}

func legacyFamilies() []legacyFamily {
	return []legacyFamily{
		{"ip", unix.NFPROTO_IPV4, "/proc/thread-self/net/ip_tables_names", unix.SOL_IP, unix.AF_INET, 4, 4, 80, 82, 84, 88, 90, 112},
		{"ip6", unix.NFPROTO_IPV6, "/proc/thread-self/net/ip6_tables_names", unix.SOL_IPV6, unix.AF_INET6, 16, 16, 128, 131, 136, 140, 142, 168},
	}
}

// readLegacy returns what the legacy tables nat say.
func readLegacy() (gateway.OtherRules, error) {
	var found gateway.OtherRules
	for _, family := range legacyFamilies() {
		_, rules, err := family.load(iptablesNAT)
		if err == nil {
			err = family.parse(rules, &found)
		}
		if err != nil {
			return found, fmt.Errorf("legacy table nat: %w", err)
		}
	}
	return found, nil
}

// load returns a table and its description (struct ipt_getinfo) if it exists and this process may read it, or nil. Asking for one that
// does not exist would create it.
func (f legacyFamily) load(table string) (info, rules []byte, err error) {
	names, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil, nil
	}
	if err != nil || !slices.Contains(strings.Fields(string(names)), table) {
		return nil, nil, err
	}
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if errors.Is(err, unix.EPERM) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return legacyRules(table, func(option int, buffer []byte) error { return getsockopt(fd, f.level, option, buffer) })
}

// legacyRules reads a table by a function like getsockopt(2). EAGAIN means that the table was replaced by one of another size after its
// size was read.
func legacyRules(table string, get func(option int, buffer []byte) error) (info, rules []byte, err error) {
	for range dumpAttempts {
		info = make([]byte, infoLength)
		copy(info, table)
		if err = get(getInfo, info); err != nil {
			return nil, nil, err
		}
		size := binary.NativeEndian.Uint32(info[infoEntries:])
		entries := make([]byte, entriesAt+int(size))
		copy(entries, table)
		binary.NativeEndian.PutUint32(entries[tableName:], size)
		if err = get(getEntries, entries); err == nil {
			return info, entries[entriesAt:], nil
		}
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return nil, nil, err
}

// legacyEntry is a rule, or the begin of a chain.
type legacyEntry struct {
	// offset is its place in the table, target that of struct xt_entry_target in it.
	offset, target int
	rule           []byte
}

func (e legacyEntry) targetName() string {
	return text(e.rule[e.target+matchName : e.target+matchName+nameLength])
}

// chain returns the name of the chain that begins here: a rule whose target ERROR has its name precedes the rules.
func (e legacyEntry) chain() (name string, begins bool) {
	return text(e.rule[e.target+matchHeader:]), e.targetName() == errorTarget
}

// verdict returns that of a rule with the standard target, which has no name: the place of the next rule, or the complement of a verdict
// of the kernel.
func (e legacyEntry) verdict() int32 {
	if len(e.rule) < e.target+matchHeader+4 {
		return ^int32(verdictReturn)
	}
	return int32(binary.NativeEndian.Uint32(e.rule[e.target+matchHeader:]))
}

// each passes all entries.
func (f legacyFamily) each(rules []byte, do func(legacyEntry) error) error {
	for offset := 0; len(rules) > f.header; {
		target, next := int(binary.NativeEndian.Uint16(rules[f.target:])), int(binary.NativeEndian.Uint16(rules[f.next:]))
		if target < f.header || next < target+matchHeader || next > len(rules) {
			return fmt.Errorf("a rule of %d bytes with a target at %d does not fit into %d", next, target, len(rules))
		}
		if err := do(legacyEntry{offset, target, rules[:next]}); err != nil {
			return err
		}
		offset, rules = offset+next, rules[next:]
	}
	return nil
}

// parse adds what the rules say.
func (f legacyFamily) parse(rules []byte, to *gateway.OtherRules) error {
	kind := ""
	return f.each(rules, func(e legacyEntry) error {
		if name, begins := e.chain(); begins {
			kind = map[string]string{proxyNodePortsNAT: nodePort, portmapNAT: hostPort}[name]
			if name == proxyServices {
				to.ServiceProxy = "kube-proxy (iptables)"
			}
		} else if kind != "" {
			for _, claim := range f.claims(e.rule[:e.target]) {
				claim.Kind = kind
				to.Claims = append(to.Claims, claim)
			}
		}
		return nil
	})
}

// matches passes the matches of a rule.
func (f legacyFamily) matches(rule []byte, do func(name string, revision uint32, info []byte)) {
	for at := f.header; at+matchHeader <= len(rule); {
		size := int(binary.NativeEndian.Uint16(rule[at:]))
		if size < matchHeader || at+size > len(rule) {
			break
		}
		do(text(rule[at+matchName:at+matchName+nameLength]), uint32(rule[at+matchRevision]), rule[at+matchHeader:at+size])
		at += size
	}
}

// claims returns the ports of a rule.
func (f legacyFamily) claims(entry []byte) []gateway.Claim {
	var rule portRule
	rule.protocol, _ = protocolNumbered(entry[f.protocol])
	f.matches(entry, func(name string, _ uint32, info []byte) { rule.match(name, info) })
	// A rule for a network counts for all addresses.
	rule.address = netip.IPv6Unspecified()
	if f.domain == unix.AF_INET {
		rule.address = netip.IPv4Unspecified()
	}
	if mask := entry[f.address+2*f.size : f.address+3*f.size]; bytes.Count(mask, []byte{0xff}) == f.size {
		rule.address, _ = netip.AddrFromSlice(entry[f.address : f.address+f.size])
	}
	return rule.claims()
}

// text returns the text before the first zero byte.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// getsockopt calls getsockopt(2) with a buffer, which golang.org/x/sys/unix does not offer.
func getsockopt(fd, level, option int, buffer []byte) error {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
	runtime.KeepAlive(buffer)
	if errno != 0 {
		return errno
	}
	return nil
}
