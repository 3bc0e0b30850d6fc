// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Socket options of ip_tables and ip6_tables (linux/netfilter_ipv4/ip_tables.h).
const (
	getInfo    = 64 // IPT_SO_GET_INFO
	getEntries = 65 // IPT_SO_GET_ENTRIES
)

// Offsets in struct ipt_getinfo and ipt_get_entries. Both begin with the name of the table.
const (
	infoSize   = 84
	sizeInInfo = 80
	nameSize   = 32
	headerSize = 40
)

// layout describes struct ipt_entry or ip6t_entry.
type layout struct {
	level, domain int
	// next is the offset of next_offset. counters is the offset of the packet and byte counters, which are not part of the
	// rule.
	next, counters int
}

const countersSize = 16

var layouts = map[gateway.Family]layout{
	gateway.IPv4: {level: unix.SOL_IP, domain: unix.AF_INET, next: 90, counters: 96},
	gateway.IPv6: {level: unix.SOL_IPV6, domain: unix.AF_INET6, next: 142, counters: 152},
}

// xtables reads legacy tables through a raw socket, as iptables-legacy does.
type xtables struct {
	layout
	fd int
}

func openXTables(family gateway.Family) (*xtables, error) {
	l := layouts[family]
	fd, err := unix.Socket(l.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("opening a socket to the legacy tables: %w", err)
	}
	return &xtables{layout: l, fd: fd}, nil
}

func (x *xtables) close() { _ = unix.Close(x.fd) }

// hash adds the sizes of a table to the hash or, if whole is set, also all its rules without counters.
func (x *xtables) hash(hash *maphash.Hash, table string, whole bool) error {
	info := make([]byte, infoSize)
	copy(info, table)
	if err := x.get(getInfo, info); err != nil {
		return err
	}
	_, _ = hash.Write(info)
	if !whole {
		return nil
	}
	size := binary.NativeEndian.Uint32(info[sizeInInfo:])
	// Use mmap to return the memory at once: ten thousand ports take ten megabytes.
	entries, err := unix.Mmap(-1, 0, headerSize+int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("allocating %d bytes: %w", size, err)
	}
	defer func() { _ = unix.Munmap(entries) }()
	copy(entries, table)
	binary.NativeEndian.PutUint32(entries[nameSize:], size)
	err = x.get(getEntries, entries)
	if errors.Is(err, unix.EAGAIN) {
		return nil // the table was just replaced, so its sizes will differ
	}
	if err != nil {
		return err
	}
	return x.hashRules(hash, entries[headerSize:])
}

// hashRules adds consecutive rules without their counters to the hash.
func (l layout) hashRules(hash *maphash.Hash, rules []byte) error {
	for ruleSize := l.counters + countersSize; len(rules) > ruleSize; {
		next := int(binary.NativeEndian.Uint16(rules[l.next:]))
		if next < ruleSize || next > len(rules) {
			return fmt.Errorf("a rule has %d bytes but only %d are left", next, len(rules))
		}
		_, _ = hash.Write(rules[:l.counters])
		_, _ = hash.Write(rules[ruleSize:next])
		rules = rules[next:]
	}
	return nil
}

// get calls getsockopt(2) with a buffer, which golang.org/x/sys/unix does not offer.
func (x *xtables) get(option int, buffer []byte) error {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(x.fd), uintptr(x.level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
	runtime.KeepAlive(buffer)
	if errno != 0 {
		return errno
	}
	return nil
}
