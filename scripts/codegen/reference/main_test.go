// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/crds"
)

// TestReferenceIsCurrent compares the document with the types, as make verify does.
func TestReferenceIsCurrent(t *testing.T) {
	want, err := reference(crds.Mapping, "../../..")
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../../apis/smartnat/v1alpha1/reference.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Error("apis/smartnat/v1alpha1/reference.md is stale: run make update")
	}
}

func TestLimits(t *testing.T) {
	item := apiextensionsv1.JSONSchemaProps{Type: "string", MaxLength: ptr.To[int64](45), XValidations: apiextensionsv1.ValidationRules{{Message: "must be an IP address"}}}
	for name, test := range map[string]struct {
		field apiextensionsv1.JSONSchemaProps
		want  string
	}{
		"none":         {apiextensionsv1.JSONSchemaProps{Type: "boolean"}, ""},
		"a range":      {apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: ptr.To(1.0), Maximum: ptr.To(65535.0)}, "1 to 65535"},
		"one bound":    {apiextensionsv1.JSONSchemaProps{Type: "integer", Minimum: ptr.To(1.0)}, "at least 1"},
		"a choice":     {apiextensionsv1.JSONSchemaProps{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"a"`)}, Enum: []apiextensionsv1.JSON{{Raw: []byte(`"a"`)}, {Raw: []byte(`"b"`)}}}, "default `a`; `a` or `b`"},
		"a list":       {apiextensionsv1.JSONSchemaProps{Type: "array", MaxItems: ptr.To[int64](64), Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &item}}, "at most 64 entries; each: at most 45 characters; each: must be an IP address"},
		"another path": {apiextensionsv1.JSONSchemaProps{Type: "object", XValidations: apiextensionsv1.ValidationRules{{FieldPath: ".endPort", Message: "must not be below port"}}}, "endPort must not be below port"},
	} {
		t.Run(name, func(t *testing.T) {
			if have := strings.Join(limits(test.field), "; "); have != test.want {
				t.Errorf("limits %q, want %q", have, test.want)
			}
		})
	}
}

func TestSentence(t *testing.T) {
	for text, want := range map[string]string{
		"port is the external\nport.":      "The external port.",
		"port leads to a|b.":               "`port` leads to a\\|b.",
		"port is tcp, udp or sctp.":        "tcp, udp or sctp.",
		"it says nothing about its field.": "it says nothing about its field.",
		"port is iptables <thing>.":        "iptables &lt;thing>.",
	} {
		if have := sentence(text, "port"); have != want {
			t.Errorf("sentence of %q: %q, want %q", text, have, want)
		}
	}
}

func TestConstantsNeedAMeaning(t *testing.T) {
	for name, test := range map[string]struct{ source, want, fault string }{
		"a colon":      {"// ReasonX: it breaks.\nReasonX = \"X\"", "It breaks.", ""},
		"a verb":       {"// ReasonX means that it breaks.\nReasonX = \"X\"", "It breaks.", ""},
		"no comment":   {"ReasonX = \"X\"", "", "ReasonX needs a comment"},
		"another name": {"// ReasonX: it breaks.\nReasonX = \"X\"\nReasonsMax = \"no reason\"", "It breaks.", ""},
		"no constant":  {"Other = 1", "", "has no constant Reason"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.WriteFile(filepath.Join(root, "a.go"), []byte("package a\n\nconst (\n"+test.source+"\n)\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := constants(root, ".", "Reason")
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Fatalf("error %v, want %q", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || found[0].meaning != test.want {
				t.Errorf("found %v, want the meaning %q", found, test.want)
			}
		})
	}
}
