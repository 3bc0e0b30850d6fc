// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"bytes"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sctp reports whether the kernel can match and translate SCTP: connection tracking of it is compiled in, and the match of
// its ports is there or would be loaded by the first rule with it. Whether the host itself speaks SCTP is another matter,
// so neither a socket nor /proc/net/protocols would tell. Only files are read: to ask iptables, or the kernel as it does,
// would load the module into a kernel that may never need it.
func sctp(root fs.FS, release string) bool {
	exists := func(name string) bool {
		_, err := fs.Stat(root, name)
		return err == nil
	}
	// Where connection tracking is not loaded yet, nothing can be said of it.
	const conntrack = "proc/sys/net/netfilter/nf_conntrack_"
	if exists(conntrack+"max") && !exists(conntrack+"sctp_timeout_established") {
		return false
	}
	matches, err := fs.ReadFile(root, "proc/net/ip_tables_matches")
	if err == nil && slices.Contains(strings.Fields(string(matches)), "sctp") {
		return true
	}
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		modules, err := fs.ReadFile(root, "lib/modules/"+release+"/"+list)
		if err == nil && bytes.Contains(modules, []byte("/xt_sctp.ko")) {
			return true
		}
	}
	return false
}

// kernelRelease is what `uname -r` says.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
