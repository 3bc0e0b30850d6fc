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

// schemas are OpenAPI schemas by their names. References between them begin with a prefix, which differs between the
// versions of OpenAPI.
type schemas struct {
	prefix string
	byName map[string]*spec.Schema
}

// modelNamed, described and formatted are what the types of Kubernetes say about themselves.
type (
	modelNamed interface{ OpenAPIModelName() string }
	described  interface{ SwaggerDoc() map[string]string }
	formatted  interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
)

// of returns the schema of a Go type; of structs it is a reference.
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

// reference returns a reference to the schema of a struct, which is added if it is not there yet.
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

// docs are the descriptions of a type's fields, and of itself under an empty name.
func docs(t reflect.Type) map[string]string {
	if d, ok := reflect.Zero(t).Interface().(described); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// property returns the schema of a field. What stands beside a reference is not read, so that goes into a schema of its own.
func (s schemas) property(t reflect.Type, description string) spec.Schema {
	schema := *s.of(t)
	if schema.Ref.String() != "" {
		schema = spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{schema}}}
	}
	schema.Description = description
	return schema
}

// addMapping adds the schema of Mappings, which the CustomResourceDefinition has.
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
	// What is of all objects is described as it is of others.
	s.addFields(schema, reflect.TypeFor[metav1.TypeMeta]())
	schema.SetProperty("metadata", s.property(reflect.TypeFor[metav1.ObjectMeta](), metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
	s.byName[name] = schema
	return nil
}
