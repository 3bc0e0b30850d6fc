// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// The resources that the plugin reads and writes.
var (
	serviceAccounts = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	secrets         = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	services        = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	nodes           = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	serviceCIDRs    = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "servicecidrs"}
	roles           = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}
	roleBindings    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}
	bindings        = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
)

// fieldManager owns the fields that the plugin writes.
const fieldManager = "kubectl-smartnat"

// pageSize is the number of objects of one answer to a list.
const pageSize = 500

// get reads an object into a typed value. It returns false if it does not exist.
func get[T any](ctx context.Context, from dynamic.ResourceInterface, name string) (*T, bool, error) {
	object, err := from.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	typed, err := convert[T](object)
	return typed, err == nil, err
}

// list reads all objects with the labels of a selector, or all.
func list[T any](ctx context.Context, from dynamic.ResourceInterface, selector string) ([]T, error) {
	var all []T
	options := metav1.ListOptions{Limit: pageSize, LabelSelector: selector}
	for {
		page, err := from.List(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			typed, err := convert[T](&page.Items[i])
			if err != nil {
				return nil, err
			}
			all = append(all, *typed)
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}

func convert[T any](object *unstructured.Unstructured) (*T, error) {
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, typed); err != nil {
		return nil, fmt.Errorf("reading the %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return typed, nil
}

// create creates an object, and returns the one of the server.
func create[T any](ctx context.Context, in dynamic.ResourceInterface, object *T, subresources ...string) (*T, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	created, err := in.Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{FieldManager: fieldManager}, subresources...)
	if err != nil {
		return nil, err
	}
	return convert[T](created)
}

// settle creates an object of a gateway. If the gateway has one already, settle makes it equal and removes unwanted annotations; it refuses
// to change the object of another.
func settle[T any](ctx context.Context, in dynamic.ResourceInterface, gateway string, object *T, unwanted ...string) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	want := &unstructured.Unstructured{Object: content}
	kind, name := want.GetKind(), want.GetName()
	_, err = create(ctx, in, object)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			err = fmt.Errorf("creating the %s %s: %w", kind, name, err)
		}
		return err
	}
	existing, err := in.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return fmt.Errorf("reading the %s %s: %w", kind, name, err)
	case existing.GetLabels()[gatewayLabel] != gateway:
		return fmt.Errorf("the %s %s exists and does not belong to a gateway %s: delete it, or choose another name", kind, name, gateway)
	case !equality.Semantic.DeepEqual(existing.Object["roleRef"], content["roleRef"]): // the cluster lets no one change it
		return fmt.Errorf("the %s %s exists and binds something else: delete it, or choose another name", kind, name)
	}
	// In a merge patch, a list replaces the whole list, and null removes an annotation.
	for _, annotation := range unwanted {
		if err := unstructured.SetNestedField(want.Object, nil, "metadata", "annotations", annotation); err != nil {
			return fmt.Errorf("changing the %s %s: %w", kind, name, err)
		}
	}
	want.SetUID(existing.GetUID())
	want.SetResourceVersion(existing.GetResourceVersion())
	patch, err := json.Marshal(want)
	if err == nil {
		_, err = in.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return fmt.Errorf("changing the %s %s: %w", kind, name, err)
	}
	return nil
}
