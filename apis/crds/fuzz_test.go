// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package crds_test

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// FuzzSchemaAndValidationAgree proves for any Mapping that schema and validation come to the same result.
func FuzzSchemaAndValidationAgree(f *testing.F) {
	for _, test := range cases() {
		if len(test.spec) > 1000 {
			continue
		}
		seed, err := yaml.YAMLToJSON(exampleWith(f, test.spec))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	s := newSchema(f, mappingFile)
	f.Fuzz(func(t *testing.T, text []byte) {
		var mapping v1alpha1.Mapping
		if json.Unmarshal(text, &mapping) != nil {
			return
		}
		// The API server judges everything outside of the spec.
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&v1alpha1.Mapping{Spec: mapping.Spec})
		if err != nil {
			t.Fatal(err)
		}
		bySchema, byCode := s.validate(t, object), validation.ValidateMapping(&mapping)
		if (len(bySchema) == 0) != (len(byCode) == 0) {
			t.Errorf("the schema: %v\nvalidation: %v", bySchema.ToAggregate(), byCode.ToAggregate())
		}
	})
}
