// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"reflect"

	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	kindExtension   = "x-kubernetes-group-version-kind"
	actionExtension = "x-kubernetes-action"
)

// addOpenAPI adds the OpenAPI documents, for kubectl explain.
func (d documents) addOpenAPI(served []groupVersion) error {
	service := handler3.NewOpenAPIService()
	for _, gv := range served {
		all, paths := schemas{prefix: "#/components/schemas/", byName: map[string]*spec.Schema{}}, map[string]*spec3.Path{}
		for _, r := range gv.resources {
			if err := all.add(r); err != nil {
				return err
			}
			addPaths(paths, gv, r)
		}
		service.UpdateGroupVersion(gv.path()[1:], &spec3.OpenAPI{
			Version:    "3.0.0",
			Info:       &spec.Info{InfoProps: spec.InfoProps{Title: "smartnat-relay", Version: protocolVersion().GitVersion}},
			Paths:      &spec3.Paths{Paths: paths},
			Components: &spec3.Components{Schemas: all.byName},
		})
		d["/openapi/v3"+gv.path()] = http.HandlerFunc(service.HandleGroupVersion)
	}
	d["/openapi/v3"] = http.HandlerFunc(service.HandleDiscovery)
	return nil
}

// add adds the schema of a resource and the schemas that it refers to: that of the CustomResourceDefinition for our own
// kinds. No CustomResourceDefinition defines those of Kubernetes, so their schema comes from their Go types, which carry
// the descriptions.
func (s schemas) add(r *resource) error {
	model, ours, err := s.addDefined(r)
	if err != nil {
		return err
	}
	if !ours {
		model = s.named(reflect.TypeOf(r.kind.New()).Elem())
	}
	s.byName[model].AddExtension(kindExtension, []any{kindOf(r)})
	return nil
}

// addPaths adds the paths of a resource.
func addPaths(paths map[string]*spec3.Path, gv groupVersion, r *resource) {
	list := &spec3.Operation{OperationProps: spec3.OperationProps{
		Description: "list or watch objects of kind " + r.Kind,
		Responses: &spec3.Responses{ResponsesProps: spec3.ResponsesProps{StatusCodeResponses: map[int]*spec3.Response{
			http.StatusOK: {ResponseProps: spec3.ResponseProps{Description: "OK"}},
		}}},
	}}
	list.AddExtension(actionExtension, "list")
	list.AddExtension(kindExtension, kindOf(r))
	one := *list
	one.Description, one.Extensions = "read the specified "+r.Kind, spec.Extensions{}
	one.AddExtension(actionExtension, "get")
	one.AddExtension(kindExtension, kindOf(r))
	collection := gv.path() + "/namespaces/{namespace}/" + r.Resource
	if r.ClusterScoped {
		collection = gv.path() + "/" + r.Resource
	}
	paths[collection] = &spec3.Path{PathProps: spec3.PathProps{Get: list}}
	paths[collection+"/{name}"] = &spec3.Path{PathProps: spec3.PathProps{Get: &one}}
}

func kindOf(r *resource) map[string]any {
	return map[string]any{"group": r.Group, "version": r.Version, "kind": r.Kind}
}
