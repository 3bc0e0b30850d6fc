// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	kindExtension   = "x-kubernetes-group-version-kind"
	actionExtension = "x-kubernetes-action"
	mappingModel    = "com.aureacentral.smartnat.v1alpha1.Mapping"
)

// addOpenAPI adds the OpenAPI documents, for kubectl explain.
func (d documents) addOpenAPI(resources []*resource) error {
	service := handler3.NewOpenAPIService()
	for _, r := range resources {
		all := schemas{prefix: "#/components/schemas/", byName: map[string]*spec.Schema{}}
		if err := all.add(r); err != nil {
			return err
		}
		path := r.groupVersionPath()
		service.UpdateGroupVersion(path[1:], openAPI(r, all))
		d["/openapi/v3"+path] = http.HandlerFunc(service.HandleGroupVersion)
	}
	d["/openapi/v3"] = http.HandlerFunc(service.HandleDiscovery)
	return nil
}

// add adds the schema of a resource and the schemas that it refers to.
func (s schemas) add(r *resource) error {
	var model string
	switch r.kind {
	case "Service":
		s.of(reflect.TypeFor[corev1.Service]())
		model = corev1.Service{}.OpenAPIModelName()
	case "EndpointSlice":
		s.of(reflect.TypeFor[discoveryv1.EndpointSlice]())
		model = discoveryv1.EndpointSlice{}.OpenAPIModelName()
	default:
		model = mappingModel
		if err := s.addMapping(model); err != nil {
			return err
		}
	}
	s.byName[model].AddExtension(kindExtension, []any{kindOf(r)})
	return nil
}

// openAPI describes the fields and the paths of one resource.
func openAPI(r *resource, all schemas) *spec3.OpenAPI {
	list := &spec3.Operation{OperationProps: spec3.OperationProps{
		Description: "list or watch objects of kind " + r.kind,
		Responses: &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{
			http.StatusOK: {ResponseProps: spec3.ResponseProps{Description: "OK"}},
		}}},
	}}
	list.AddExtension(actionExtension, "list")
	list.AddExtension(kindExtension, kindOf(r))
	one := *list
	one.Description, one.Extensions = "read the specified "+r.kind, spec.Extensions{}
	one.AddExtension(actionExtension, "get")
	one.AddExtension(kindExtension, kindOf(r))
	collection := r.groupVersionPath() + "/namespaces/{namespace}/" + r.GroupVersionResource.Resource
	return &spec3.OpenAPI{
		Version: "3.0.0",
		Info:    &spec.Info{InfoProps: spec.InfoProps{Title: "smartnat-relay", Version: protocolVersion().GitVersion}},
		Paths: &spec3.Paths{Paths: map[string]*spec3.Path{
			collection:             {PathProps: spec3.PathProps{Get: list}},
			collection + "/{name}": {PathProps: spec3.PathProps{Get: &one}},
		}},
		Components: &spec3.Components{Schemas: all.byName},
	}
}

func kindOf(r *resource) map[string]any {
	return map[string]any{"group": r.Group, "version": r.Version, "kind": r.kind}
}
