// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// constant is a string constant: its value, the comment of its group, and the meaning that its own comment gives.
type constant struct{ value, group, meaning string }

// constants returns the string constants of a package whose names begin with prefix, in the order of files and lines. Each must have a
// comment of the form "Name means that meaning." or "Name: meaning."
func constants(root, folder, prefix string) ([]constant, error) {
	entries, err := os.ReadDir(filepath.Join(root, folder))
	if err != nil {
		return nil, fmt.Errorf("listing the package %s: %w", folder, err)
	}
	var all []constant
	files := token.NewFileSet()
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, filepath.Join(root, folder, entry.Name()), nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, declaration := range file.Decls {
			group, ok := declaration.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				found, err := read(spec.(*ast.ValueSpec), prefix)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", files.Position(spec.Pos()), err)
				}
				if found.value != "" {
					found.group = group.Doc.Text()
					all = append(all, found)
				}
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the package %s has no constant %s…", folder, prefix)
	}
	return all, nil
}

// read returns the constant that spec declares, or none if its name does not begin with prefix.
func read(spec *ast.ValueSpec, prefix string) (constant, error) {
	name := spec.Names[0].Name
	rest, found := strings.CutPrefix(name, prefix)
	if !found || rest == "" || !unicode.IsUpper(rune(rest[0])) || len(spec.Values) != 1 {
		return constant{}, nil
	}
	literal, ok := spec.Values[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return constant{}, nil
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		return constant{}, err
	}
	text := plain(spec.Doc.Text())
	for _, begin := range []string{name + " means that ", name + ": ", name + " is "} {
		if meaning, found := strings.CutPrefix(text, begin); found {
			return constant{value: value, meaning: capital(meaning)}, nil
		}
	}
	return constant{}, fmt.Errorf("%s needs a comment that begins with %q or %q", name, name+" means that", name+":")
}
