// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	// A link or a picture. The text of a link may be a picture, but has no other bracket.
	link    = regexp.MustCompile(`\]\(\s*<?([^)<>\s]+)>?(?:\s+"[^"]*")?\s*\)`)
	heading = regexp.MustCompile(`^#{1,6}\s+(.*?)\s*#*$`)
	named   = regexp.MustCompile(`<a\s+(?:id|name)="([^"]+)"`)
	inLink  = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// links returns a fault for each link between documents, by their paths below root, whose file or heading does not exist.
func links(root string, documents map[string]string) []string {
	anchors := map[string]map[string]bool{}
	for path, text := range documents {
		anchors[path] = headings(text)
	}
	var faults []string
	for _, path := range slices.Sorted(maps.Keys(documents)) {
		for _, l := range lines(documents[path]) {
			if l.code {
				continue
			}
			for _, match := range link.FindAllStringSubmatch(spans.ReplaceAllString(l.text, "`code`"), -1) {
				if fault := follow(root, path, match[1], anchors); fault != "" {
					faults = append(faults, fmt.Sprintf("%s:%d: %s", path, l.number, fault))
				}
			}
		}
	}
	return faults
}

// follow returns what is wrong with a link in the document path, or "".
func follow(root, path, link string, anchors map[string]map[string]bool) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return ""
	}
	file, anchor, hasAnchor := strings.Cut(link, "#")
	target := path
	if file != "" {
		target = filepath.Join(filepath.Dir(path), file)
	}
	if !filepath.IsLocal(target) {
		return fmt.Sprintf("%s leads out of the tree", link)
	}
	if _, err := os.Stat(filepath.Join(root, target)); err != nil {
		return fmt.Sprintf("%s: there is no %s", link, target)
	}
	if hasAnchor && !anchors[target][anchor] {
		return fmt.Sprintf("%s: %s has no heading for #%s", link, target, anchor)
	}
	return ""
}

// headings returns the anchors of a document, as GitHub names them: in lower case, without punctuation, with dashes for blanks, and with
// a number if a heading comes again.
func headings(text string) map[string]bool {
	anchors := map[string]bool{}
	for _, l := range lines(text) {
		for _, match := range named.FindAllStringSubmatch(l.text, -1) {
			anchors[match[1]] = true
		}
		match := heading.FindStringSubmatch(l.text)
		if l.code || match == nil {
			continue
		}
		anchor := slug(match[1])
		for i, name := 1, anchor; anchors[anchor]; i++ {
			anchor = fmt.Sprintf("%s-%d", name, i)
		}
		anchors[anchor] = true
	}
	return anchors
}

func slug(text string) string {
	text = strings.ToLower(inLink.ReplaceAllString(text, "$1"))
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '-':
			return '-'
		case r == '_' || r > 127 || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
			return r
		}
		return -1
	}, text)
}

// line is a line of a document.
type line struct {
	number int
	text   string
	// code: it is part of a fenced block, in this language.
	code     bool
	language string
}

// lines splits a document. The lines of fences are left out.
func lines(text string) []line {
	var all []line
	fence, language := "", ""
	number := 0
	for text := range strings.Lines(text) {
		number++
		text = strings.TrimRight(text, "\r\n")
		trimmed := strings.TrimLeft(text, " ")
		switch {
		case fence == "" && (strings.HasPrefix(trimmed, "```") || strings.HasPrefix(trimmed, "~~~")):
			fence, language = trimmed[:3], strings.TrimSpace(strings.TrimLeft(trimmed, "`~"))
		case fence != "" && strings.HasPrefix(trimmed, fence):
			fence = ""
		default:
			all = append(all, line{number, text, fence != "", language})
		}
	}
	return all
}
