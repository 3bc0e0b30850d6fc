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

// sctp reports whether the kernel can match and translate SCTP: its connection tracking is compiled in, and the match for its
// ports is loaded or can be loaded by a rule. A socket or /proc/net/protocols would only show whether the host itself speaks
// SCTP. It reads files only, because asking iptables or the kernel would load a module that may never be needed.
func sctp(root fs.FS, release string) bool {
	exists := func(name string) bool {
		_, err := fs.Stat(root, name)
		return err == nil
	}
	// While connection tracking is not loaded, its support is unknown.
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

// kernelRelease returns the output of `uname -r`.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
