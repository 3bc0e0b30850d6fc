// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/crds"
)

// schemas maps names to OpenAPI schemas. prefix begins the references between them and depends on the OpenAPI version.
type schemas struct {
	prefix string
	byName map[string]*spec.Schema
}

// modelNamed, described and formatted are implemented by Kubernetes API types.
type (
	modelNamed interface{ OpenAPIModelName() string }
	described  interface{ SwaggerDoc() map[string]string }
	formatted  interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
)

// of returns the schema of a Go type, for a struct a reference.
func (s schemas) of(t reflect.Type) *spec.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if f, ok := reflect.Zero(t).Interface().(formatted); ok {
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: f.OpenAPISchemaType(), Format: f.OpenAPISchemaFormat()}}
	}
	switch t.Kind() {
	case reflect.Bool:
		return spec.BoolProperty()
	case reflect.Int32:
		return spec.Int32Property()
	case reflect.Int, reflect.Int64:
		return spec.Int64Property()
	case reflect.Slice:
		return spec.ArrayProperty(s.of(t.Elem()))
	case reflect.Map:
		return spec.MapProperty(s.of(t.Elem()))
	case reflect.Struct:
		return s.reference(t)
	}
	return spec.StringProperty()
}

// reference returns a reference to the schema of a struct and adds the schema if needed.
func (s schemas) reference(t reflect.Type) *spec.Schema { return spec.RefSchema(s.prefix + s.named(t)) }

// named returns the name of the schema of a struct and adds the schema if needed.
func (s schemas) named(t reflect.Type) string {
	name := t.String()
	if m, ok := reflect.Zero(t).Interface().(modelNamed); ok {
		name = m.OpenAPIModelName()
	}
	if s.byName[name] == nil {
		schema := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
		s.byName[name] = schema
		s.addFields(schema, t)
		schema.Description = docs(t)[""]
	}
	return name
}

func (s schemas) addFields(schema *spec.Schema, t reflect.Type) {
	docs := docs(t)
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-":
			continue
		case name == "" && field.Anonymous:
			s.addFields(schema, field.Type)
			continue
		}
		schema.SetProperty(name, s.property(field.Type, docs[name]))
		if !strings.Contains(options, "omitempty") {
			schema.Required = append(schema.Required, name)
		}
	}
}

// docs returns the descriptions of a type's fields, and of the type itself under the empty name.
func docs(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(described); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// property returns the schema of a field. OpenAPI ignores siblings of a $ref, so a reference goes into allOf and the
// description next to that.
func (s schemas) property(t reflect.Type, description string) spec.Schema {
	schema := *s.of(t)
	if schema.Ref.String() != "" {
		schema = spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{schema}}}
	}
	schema.Description = description
	return schema
}

// addDefined adds the schema of a kind that one of our CustomResourceDefinitions defines, and returns its name. It returns
// false for all others.
func (s schemas) addDefined(r *resource) (name string, ours bool, err error) {
	for _, definition := range crds.All() {
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(definition, &crd); err != nil {
			return "", false, fmt.Errorf("reading a CustomResourceDefinition: %w", err)
		}
		if crd.Spec.Group != r.Group || crd.Spec.Names.Kind != r.Kind {
			continue
		}
		for i := range crd.Spec.Versions {
			if v := &crd.Spec.Versions[i]; v.Name == r.Version && v.Schema != nil {
				name := modelName(r)
				return name, true, s.addSchema(name, v.Schema.OpenAPIV3Schema)
			}
		}
	}
	return "", false, nil
}

// modelName returns the name that kube-apiserver gives the schema of a kind of a CustomResourceDefinition: the domain of the
// group in reverse, the version and the kind.
func modelName(r *resource) string {
	labels := strings.Split(r.Group, ".")
	slices.Reverse(labels)
	return strings.Join(append(labels, r.Version, r.Kind), ".")
}

// addSchema adds the schema of a CustomResourceDefinition.
func (s schemas) addSchema(name string, defined *apiextensionsv1.JSONSchemaProps) error {
	text, err := json.Marshal(defined)
	if err != nil {
		return fmt.Errorf("encoding the schema %s: %w", name, err)
	}
	schema := &spec.Schema{}
	if err := json.Unmarshal(text, schema); err != nil {
		return fmt.Errorf("reading the schema %s: %w", name, err)
	}
	// The CRD leaves out apiVersion, kind and metadata; describe them as for other kinds.
	s.addFields(schema, reflect.TypeFor[metav1.TypeMeta]())
	schema.SetProperty("metadata", s.property(reflect.TypeFor[metav1.ObjectMeta](), metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
	s.byName[name] = schema
	return nil
}
