// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// rule is a phrase and what an engineer writes instead.
type rule struct {
	pattern *regexp.Regexp
	instead string
}

// deny makes a rule of a phrase that matches in any case and across line breaks.
func deny(phrase, instead string) rule {
	return rule{regexp.MustCompile(`(?i)\b(?:` + strings.ReplaceAll(phrase, " ", `\s+`) + `)\b`), instead}
}

var denied = []rule{
	deny(`(no|some|any|every)body( else)?`, "name the process, the user or the client"),
	deny(`who(so)?ever`, "name the process, the user or the client"),
	deny(`hands of others`, "another process"),
	deny(`anew`, "again, or recreate"),
	deny(`beside`, "next to, or in addition to"),
	deny(`aside from`, "except for"),
	deny(`(is|are|was|were|be|being|been) told`, "logs, reports, returns, or learns"),
	deny(`tells? of`, "reports"),
	deny(`in the place of`, "instead of"),
	deny(`now and then|once in a while`, "periodically, or the interval"),
	deny(`in a while`, "later, or the delay"),
	deny(`for ever`, "forever, or until what"),
	deny(`leads? nowhere`, "has no backends"),
	deny(`left out whole`, "skipped entirely, or not served"),
}

// subject is a sentence that begins with a clause as its subject. A question is none.
var subject = regexp.MustCompile(`(?:^(?:/\*)?\s*|\n\s*(?:\n|[-*]\s)\s*|[.:;!?]\s+)(What|Who|Whoever)\s[^.?!]*[.!]?(\?)?`)

// logged are the methods of a logger whose first argument is a message.
var logged = map[string]bool{"Debug": true, "Info": true, "Warn": true, "Warning": true, "Error": true, "Fatal": true}

// maxMessage is the longest log message, in bytes: with time, priority and fields it still fits a line of a journal.
const maxMessage = 60

// hit is one place to rewrite.
type hit struct {
	line int
	text string
}

// reads reports whether path holds words of this project and is in one of the folders, or anywhere if there are none.
func reads(path string, folders []string) bool {
	if strings.HasPrefix(path, "generated/") || strings.HasPrefix(path, "scripts/words/") || strings.Contains(path, "/testdata/") {
		return false
	}
	in := func(folder string) bool {
		folder = filepath.Clean(folder)
		return folder == "." || path == folder || strings.HasPrefix(path, folder+"/")
	}
	if len(folders) > 0 && !slices.ContainsFunc(folders, in) {
		return false
	}
	switch filepath.Ext(path) {
	case ".go", ".md", ".sh", ".yaml", ".yml", ".service", ".conf":
		return true
	}
	return slices.Contains([]string{"Makefile", "Dockerfile"}, filepath.Base(path))
}

// check returns what of text is to be rewritten: in Go the comments, strings and log messages, elsewhere all of it.
func check(path string, text []byte) ([]hit, error) {
	if filepath.Ext(path) != ".go" {
		return phrases(string(text), 1), nil
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var hits []hit
	for _, group := range file.Comments {
		lines := strings.Split(string(text[files.Position(group.Pos()).Offset:files.Position(group.End()).Offset]), "\n")
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(strings.TrimLeft(line, " \t"), "//")
		}
		hits = append(hits, phrases(strings.Join(lines, "\n"), files.Position(group.Pos()).Line)...)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.BasicLit:
			if node.Kind == token.STRING {
				value, _ := strconv.Unquote(node.Value)
				hits = append(hits, phrases(value, files.Position(node.Pos()).Line)...)
			}
		case *ast.CallExpr:
			if fault := message(node); fault != "" {
				hits = append(hits, hit{files.Position(node.Pos()).Line, fault})
			}
		}
		return true
	})
	slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(a.line, b.line) })
	return hits, nil
}

// phrases finds the denied ones in text, whose first line has the number line.
func phrases(text string, line int) []hit {
	var hits []hit
	at := func(offset int) int { return line + strings.Count(text[:offset], "\n") }
	for _, d := range denied {
		for _, span := range d.pattern.FindAllStringIndex(text, -1) {
			hits = append(hits, hit{at(span[0]), fmt.Sprintf("%q: write %s", text[span[0]:span[1]], d.instead)})
		}
	}
	for _, span := range subject.FindAllStringSubmatchIndex(text, -1) {
		if span[4] < 0 {
			hits = append(hits, hit{at(span[2]), fmt.Sprintf("%q begins a sentence: subject first", text[span[2]:span[3]])})
		}
	}
	return hits
}

// message returns the fault of the log message in call, "" if it is none or has none.
func message(call *ast.CallExpr) string {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !logged[strings.TrimSuffix(method.Sel.Name, "f")] || len(call.Args) == 0 || !logger(method.X) {
		return ""
	}
	literal, ok := call.Args[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(literal.Value)
	switch {
	case len(text) > maxMessage:
		return fmt.Sprintf("log message %q has %d characters, want at most %d and the rest in fields", text, len(text), maxMessage)
	case text != "" && strings.ToLower(text[:1]) != text[:1]:
		return fmt.Sprintf("log message %q begins in upper case", text)
	}
	return ""
}

// logger reports whether x is a logger, or an entry of one: log, c.Log, s.log.WithField(...).
func logger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.EqualFold(x.Name, "log") || strings.EqualFold(x.Name, "entry")
	case *ast.SelectorExpr:
		return strings.EqualFold(x.Sel.Name, "log")
	case *ast.CallExpr:
		method, ok := x.Fun.(*ast.SelectorExpr)
		return ok && strings.HasPrefix(method.Sel.Name, "With") && logger(method.X)
	}
	return false
}
