// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// row is a field of the reference.
type row struct{ path, presence, meaning, kind, limits string }

// fields returns a row for each field below the schema of path, parents first.
func fields(path string, schema apiextensionsv1.JSONSchemaProps) ([]row, error) {
	var rows []row
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		field := schema.Properties[name]
		if field.Description == "" {
			return nil, fmt.Errorf("%s.%s has no description", path, name)
		}
		at := path + "." + name
		if field.Type == "array" {
			at += "[]"
		}
		presence := ""
		if slices.Contains(schema.Required, name) {
			presence = " (required)"
		}
		rows = append(rows, row{at, presence, sentence(field.Description, name), kind(field), strings.Join(limits(field), "<br>")})
		below := field
		if field.Type == "array" {
			below = *field.Items.Schema
		}
		if name == "conditions" { // metav1.Condition is documented by Kubernetes
			continue
		}
		more, err := fields(at, below)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// kind returns the type of a field in words.
func kind(field apiextensionsv1.JSONSchemaProps) string {
	switch {
	case field.Type == "array" && field.Items.Schema.Type == "object":
		return "list of objects"
	case field.Type == "array":
		return "list of " + kind(*field.Items.Schema) + "s"
	}
	return field.Type
}

// limits returns what the API server checks of a field.
func limits(field apiextensionsv1.JSONSchemaProps) []string {
	var all []string
	if field.Default != nil {
		all = append(all, "default `"+strings.Trim(string(field.Default.Raw), `"`)+"`")
	}
	if len(field.Enum) > 0 {
		var values []string
		for _, value := range field.Enum {
			values = append(values, "`"+strings.Trim(string(value.Raw), `"`)+"`")
		}
		all = append(all, strings.Join(values, " or "))
	}
	all = append(all, between(field.Minimum, field.Maximum, "")...)
	all = append(all, between(field.MinLength, field.MaxLength, " characters")...)
	all = append(all, between(field.MinItems, field.MaxItems, " entries")...)
	if field.Pattern != "" {
		all = append(all, "matches `"+field.Pattern+"`")
	}
	for _, rule := range field.XValidations {
		all = append(all, strings.TrimSpace(strings.TrimPrefix(rule.FieldPath, ".")+" "+escape(rule.Message)))
	}
	if field.Type == "array" {
		for _, limit := range limits(*field.Items.Schema) {
			all = append(all, "each: "+limit)
		}
	}
	return all
}

// between describes two bounds that may be missing.
func between[T int64 | float64](least, most *T, unit string) []string {
	switch {
	case least != nil && most != nil:
		return []string{fmt.Sprintf("%v to %v%s", *least, *most, unit)}
	case most != nil:
		return []string{fmt.Sprintf("at most %v%s", *most, unit)}
	case least != nil:
		return []string{fmt.Sprintf("at least %v%s", *least, unit)}
	}
	return nil
}

// intro returns the rules that a whole object must keep, as a list.
func intro(schema apiextensionsv1.JSONSchemaProps) string {
	var out strings.Builder
	for _, rule := range schema.XValidations {
		fmt.Fprintf(&out, "- `%s`: %s\n", strings.TrimPrefix(rule.FieldPath, "."), escape(rule.Message))
	}
	if out.Len() > 0 {
		out.WriteString("\n")
	}
	return out.String()
}

// plain returns text on one line that no table cell misreads.
func plain(text string) string {
	return escape(strings.Join(strings.Fields(text), " "))
}

// sentence returns the description of a field, which begins with its name, as a sentence.
func sentence(text, name string) string {
	rest, found := strings.CutPrefix(plain(text), name+" ")
	if !found {
		return plain(text)
	}
	for _, verb := range []string{"is ", "are "} {
		if noun, found := strings.CutPrefix(rest, verb); found {
			return capital(noun)
		}
	}
	return "`" + name + "` " + rest
}

// capital begins text with a capital letter, unless its first word is a name.
func capital(text string) string {
	first, _, _ := strings.Cut(text, " ")
	if first == "iptables" || first != strings.ToLower(first) || strings.ContainsAny(first, ":,") {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func escape(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(text)
}
