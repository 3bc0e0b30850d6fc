// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// mentioned is a path below one of the folders at the top of the tree, such as scripts/image.sh, but not one below another folder.
var mentioned = regexp.MustCompile(`(?:^|[^\w./~-])((?:\./)?(?:apis|cmd|generated|pkg|relay|scripts|systemd|\.github)/[\w./-]*[\w/])`)

// paths returns a fault for each file or folder of the tree that a document names, in prose or in code, and that does not exist: neither
// below root nor next to the document. Addresses of links are left to links.
func paths(root, path, text string) []string {
	var faults []string
	for _, l := range lines(text) {
		for _, match := range mentioned.FindAllStringSubmatch(link.ReplaceAllString(l.text, "]"), -1) {
			named := strings.TrimSuffix(match[1], ".")
			if strings.HasSuffix(named, "/...") { // packages of Go
				named = strings.TrimSuffix(named, "...")
			}
			_, err := os.Stat(filepath.Join(root, named))
			if _, nextTo := os.Stat(filepath.Join(root, filepath.Dir(path), named)); err != nil && nextTo != nil {
				faults = append(faults, fmt.Sprintf("%s:%d: there is no %s", path, l.number, named))
			}
		}
	}
	return faults
}
