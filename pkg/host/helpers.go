// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"bytes"
	"io/fs"
	"slices"
	"strings"
)

// withoutNAT returns those of the helpers ("ftp") that read connections and do not translate what they announce, because the module that
// does is not loaded: no rule makes the kernel load it. A module that is part of the kernel is in no list of loaded ones.
func withoutNAT(root fs.FS, release string, helpers []string) []string {
	loaded, err := fs.ReadFile(root, "proc/modules")
	if err != nil {
		return nil // a kernel without modules
	}
	dep, _ := fs.ReadFile(root, "lib/modules/"+release+"/modules.dep") // a container may lack it
	isLoaded := func(module string) bool {
		return slices.ContainsFunc(strings.Split(string(loaded), "\n"), func(line string) bool { return strings.HasPrefix(line, module+" ") })
	}
	var without []string
	for _, name := range helpers {
		translates := "nf_nat_" + name
		// If the helper is a module, the one that translates is no part of the kernel either (net/netfilter/Kconfig).
		if !isLoaded(translates) && (bytes.Contains(dep, []byte("/"+translates+".ko")) || isLoaded("nf_conntrack_"+name)) {
			without = append(without, name)
		}
	}
	return without
}
