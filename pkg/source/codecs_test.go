// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"

	"github.com/smartnat/smartnat/apis/kinds"
)

// TestLeadingKind compares the kind found at the beginning with the one that client-go finds in the whole object.
func TestLeadingKind(t *testing.T) {
	mapping := &schema.GroupVersionKind{Group: "smartnat.aureacentral.com", Version: "v1alpha1", Kind: "Mapping"}
	for name, test := range map[string]struct {
		text  string
		first bool // the first bytes are enough, so the rest may be anything
		want  *schema.GroupVersionKind
	}{
		"as Go writes it":           {`{"kind":"Mapping","apiVersion":"smartnat.aureacentral.com/v1alpha1","spec":{}}`, true, mapping},
		"as an API server writes":   {`{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","spec":{}}`, true, mapping},
		"spaces":                    {` {"kind": "Mapping", "apiVersion":"smartnat.aureacentral.com/v1alpha1"}`, false, mapping},
		"last":                      {`{"spec":{},"kind":"Mapping","apiVersion":"smartnat.aureacentral.com/v1alpha1"}`, false, mapping},
		"list":                      {`{"kind":"ServiceList","apiVersion":"v1","items":[]}`, true, &schema.GroupVersionKind{Version: "v1", Kind: "ServiceList"}},
		"event":                     {`{"type":"ADDED","object":{"kind":"Mapping"}}`, true, &schema.GroupVersionKind{}},
		"error":                     {`{"kind":"Status","apiVersion":"v1","code":410}`, false, &schema.GroupVersionKind{Version: "v1", Kind: "Status"}},
		"kind that begins alike":    {`{"kind":"MappingX","apiVersion":"smartnat.aureacentral.com/v1alpha1","spec":{}}`, false, &schema.GroupVersionKind{Group: "smartnat.aureacentral.com", Version: "v1alpha1", Kind: "MappingX"}},
		"version that begins alike": {`{"kind":"Mapping","apiVersion":"smartnat.aureacentral.com/v1alpha11","spec":{}}`, false, &schema.GroupVersionKind{Group: "smartnat.aureacentral.com", Version: "v1alpha11", Kind: "Mapping"}},
		"null":                      {`null`, false, &schema.GroupVersionKind{}},
		"torn":                      {`{"kind":"Map`, false, nil},
		"empty":                     {``, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLeadingKind(kinds.All())
			got, err := l.Interpret([]byte(test.text))
			want, wantErr := json.SimpleMetaFactory{}.Interpret([]byte(test.text))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (wantErr == nil) {
				t.Errorf("error %v, client-go %v\n%s", err, wantErr, diff)
			}
			if _, err := l.Interpret([]byte(test.text + "?")); (err == nil) != test.first {
				t.Errorf("with a wrong end: error %v", err)
			}
		})
	}
}
