// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"regexp"
	"slices"
	"strings"
)

// NFTables returns the host's tables of nf_tables whose names begin with prefix, as text that is equal for equal behaviour: without
// counters and what packets added, and independent of the order in which objects were created. The rules of a chain keep their order.
func (h *Host) NFTables(ctx context.Context, prefix string) (string, error) {
	// Some versions warn of statements that they print all the same.
	listing, err := h.Exec(ctx, "sh", "-c", "exec nft list ruleset 2>/dev/null")
	if err != nil {
		return "", err
	}
	return canonicalTables(listing, prefix), nil
}

var (
	counted  = regexp.MustCompile(` ?packets \d+ bytes \d+`)
	elements = regexp.MustCompile(`(?s)\t\telements = \{(.*?)\}\n`)
)

// canonicalTables sorts the tables, chains and sets of a listing by nft, and the elements of sets.
func canonicalTables(listing, prefix string) string {
	var objects []string
	table := ""
	for line := range strings.Lines(listing) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "table "): // "table ip smartnat { # progname smartnatd"
			table = ""
			if strings.HasPrefix(words[2], prefix) {
				table = strings.Join(words[:3], " ")
				objects = append(objects, table+"\n")
			}
		case table == "" || line == "}\n" || line == "\n":
		case strings.HasPrefix(line, "\t\t") || line == "\t}\n":
			objects[len(objects)-1] += line
		default:
			objects = append(objects, table+line)
		}
	}
	for i, object := range objects {
		objects[i] = elements.ReplaceAllStringFunc(counted.ReplaceAllString(object, ""), canonicalElements)
	}
	slices.Sort(objects)
	return strings.Join(objects, "")
}

// canonicalElements sorts elements, one a line, without those that expire.
func canonicalElements(text string) string {
	var all []string
	for element := range strings.SplitSeq(elements.FindStringSubmatch(text)[1], ",") {
		if element = strings.Join(strings.Fields(element), " "); !strings.Contains(element, " expires ") {
			all = append(all, "\t\t"+element+"\n")
		}
	}
	slices.Sort(all)
	return strings.Join(all, "")
}
