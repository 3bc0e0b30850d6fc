// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"fmt"
	"reflect"
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
func (s schemas) reference(t reflect.Type) *spec.Schema {
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
	return spec.RefSchema(s.prefix + name)
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

// addMapping adds the schema of Mappings from the CustomResourceDefinition.
func (s schemas) addMapping(name string) error {
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(crds.Mapping, &crd); err != nil {
		return fmt.Errorf("reading the CustomResourceDefinition of Mappings: %w", err)
	}
	text, err := json.Marshal(crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
	if err != nil {
		return fmt.Errorf("encoding the schema of Mappings: %w", err)
	}
	schema := &spec.Schema{}
	if err := json.Unmarshal(text, schema); err != nil {
		return fmt.Errorf("reading the schema of Mappings: %w", err)
	}
	// The CRD leaves out apiVersion, kind and metadata; describe them as for other kinds.
	s.addFields(schema, reflect.TypeFor[metav1.TypeMeta]())
	schema.SetProperty("metadata", s.property(reflect.TypeFor[metav1.ObjectMeta](), metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
	s.byName[name] = schema
	return nil
}
