// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// variable returns the environment variable of a key.
func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// isGroup reports whether a type is written as keys below a key.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

type key struct {
	name string
	typ  reflect.Type
}

// keysOf returns the keys of a group in the order of its fields.
func keysOf(group reflect.Type) []key {
	var keys []key
	for i := range group.NumField() {
		field := group.Field(i)
		tag := field.Tag.Get("mapstructure")
		typ := field.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch {
		case tag == "-":
		case field.Anonymous:
			keys = append(keys, keysOf(typ)...)
		case tag != "":
			keys = append(keys, key{tag, typ})
		default:
			keys = append(keys, key{lowerFirst(field.Name), typ})
		}
	}
	return keys
}

// leafKeys returns the full names of all keys that hold a value.
func leafKeys(group reflect.Type, prefix string) []key {
	var leaves []key
	for _, k := range keysOf(group) {
		if k.name = prefix + k.name; isGroup(k.typ) {
			leaves = append(leaves, leafKeys(k.typ, k.name+".")...)
		} else {
			leaves = append(leaves, k)
		}
	}
	return leaves
}

// checkKeys records the line of every key, and reports keys that are unknown or have a value of the wrong kind. mapstructure
// cannot do this: it ignores case, and knows no lines.
func (l *loader) checkKeys(node *yaml.Node, typ reflect.Type, path string) {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node == nil || node.Tag == "!!null" {
		return
	}
	switch {
	case isGroup(typ):
		l.checkGroup(node, typ, path)
	case typ.Kind() == reflect.Slice && node.Kind == yaml.SequenceNode:
		for i, item := range node.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			l.lines[strings.ToLower(at)] = item.Line
			l.checkKeys(item, typ.Elem(), at)
		}
	case typ.Kind() == reflect.Slice && (isGroup(typ.Elem()) || node.Kind != yaml.ScalarNode):
		l.add(path, "must be a list")
	case node.Kind != yaml.ScalarNode:
		l.add(path, "must be a single value")
	}
}

func (l *loader) checkGroup(node *yaml.Node, group reflect.Type, path string) {
	keys := keysOf(group)
	names := make([]string, 0, len(keys))
	types := make(map[string]reflect.Type, len(keys))
	for _, k := range keys {
		names = append(names, k.name)
		types[k.name] = k.typ
	}
	if node.Kind != yaml.MappingNode {
		l.add(path, "must hold keys: "+strings.Join(names, ", "))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i].Value
		at := name
		if path != "" {
			at = path + "." + name
		}
		first, twice := seen[name]
		seen[name] = node.Content[i].Line
		l.lines[strings.ToLower(at)] = node.Content[i].Line
		if twice {
			l.add(at, fmt.Sprintf("duplicate key, already set in line %d", first))
		} else if typ, known := types[name]; known {
			l.checkKeys(node.Content[i+1], typ, at)
		} else {
			l.add(at, cmp.Or(renamedKeys()[at], "unknown key; "+suggest(name, names)))
		}
	}
}

// renamedKeys returns the error for each key of an earlier version.
func renamedKeys() map[string]string {
	return map[string]string{
		"iptables.backend": "was renamed to iptables.variant (nft is nf_tables)",
		"iptables.ipv6":    "was renamed to ipv6, at the top level",
	}
}

// checkRenamedVariables reports variables of renamed keys. Without it they would have no effect: other unknown variables may
// belong to another program.
func (l *loader) checkRenamedVariables() {
	for _, key := range slices.Sorted(maps.Keys(renamedKeys())) {
		if l.getenv(variable(key)) != "" {
			l.add(key, renamedKeys()[key])
		}
	}
}

// maxNamed is the number of keys that fit into a message.
const maxNamed = 12

// suggest names the nearest key. If none is near, it names all of them, or says where to find so many.
func suggest(name string, names []string) string {
	best, least := "", len(name)/2+1
	for _, n := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	switch {
	case best == "" && len(names) > maxNamed:
		return "this version of smartnatd has none of this name, see man smartnat.yaml"
	case best == "":
		return "must be one of " + strings.Join(names, ", ")
	}
	return "did you mean " + best + "?"
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// spell converts a path of mapstructure to one of keys.
func spell(path string) string {
	parts := strings.Split(path, ".")
	for i := range parts {
		parts[i] = lowerFirst(parts[i])
	}
	return strings.Join(parts, ".")
}

func lowerFirst(name string) string {
	first, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(first)) + name[size:]
}
