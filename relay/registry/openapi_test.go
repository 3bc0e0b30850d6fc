// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// TestOpenAPIDescribesWhatIsServed proves what kubectl explain needs: each kind is found, its fields have descriptions,
// and no reference dangles.
func TestOpenAPIDescribesWhatIsServed(t *testing.T) {
	client := must(discovery.NewDiscoveryClientForConfig(serve(t, syncedCache(t, 1))))(t)
	paths := must(client.OpenAPIV3().Paths())(t)
	for _, test := range []struct{ gv, resource, kind, field, says string }{
		{"api/v1", "services", "Service", "spec.ports.port", "The port that will be exposed by this service."},
		{"api/v1", "services", "Service", "metadata.name", "Name must be unique within a namespace"},
		{"apis/discovery.k8s.io/v1", "endpointslices", "EndpointSlice", "endpoints.conditions.ready", "ready indicates that this endpoint is ready"},
		{"apis/smartnat.aureacentral.com/v1alpha1", "mappings", "Mapping", "spec.ports.endPort", "last external port of a range"},
		{"apis/smartnat.aureacentral.com/v1alpha1", "mappings", "Mapping", "metadata.labels", "Map of string keys and values"},
	} {
		t.Run(test.kind+"."+test.field, func(t *testing.T) {
			document := &spec3.OpenAPI{}
			text := must(paths[test.gv].Schema(runtime.ContentTypeJSON))(t)
			if err := json.Unmarshal(text, document); err != nil {
				t.Fatal(err)
			}
			if document.Paths.Paths["/"+test.gv+"/namespaces/{namespace}/"+test.resource] == nil {
				t.Errorf("no path for %s", test.resource)
			}
			all := document.Components.Schemas
			for name, schema := range all {
				for field, property := range schema.Properties {
					if target := target(property); target != "" && all[target] == nil {
						t.Errorf("%s.%s refers to %s, which does not exist", name, field, target)
					}
				}
			}
			schema := ofKind(all, test.kind)
			if schema == nil {
				t.Fatalf("no schema for kind %s", test.kind)
			}
			var property spec.Schema
			for field := range strings.SplitSeq(test.field, ".") {
				property = schema.Properties[field]
				if schema = &property; target(property) != "" {
					schema = all[target(property)]
				} else if property.Items != nil {
					schema = property.Items.Schema
				}
			}
			if !strings.Contains(property.Description, test.says) {
				t.Errorf("description %q does not contain %q", property.Description, test.says)
			}
		})
	}
}

func ofKind(all map[string]*spec.Schema, kind string) *spec.Schema {
	for _, schema := range all {
		if kinds, ok := schema.Extensions[kindExtension].([]any); ok && kinds[0].(map[string]any)["kind"] == kind {
			return schema
		}
	}
	return nil
}

// target returns the name that a schema, or the items of an array, refers to.
func target(s spec.Schema) string {
	if s.Items != nil {
		s = *s.Items.Schema
	}
	if len(s.AllOf) > 0 {
		s = s.AllOf[0]
	}
	return strings.TrimPrefix(s.Ref.String(), "#/components/schemas/")
}
