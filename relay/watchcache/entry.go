// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

// Object is an object of any of the kinds.
type Object interface {
	runtime.Object
	metav1.Object
}

// View is how much of an object is asked for.
type View int

const (
	// Whole is all that leaves the cluster.
	Whole View = iota
	// ForGateway is what a gateway needs of that.
	ForGateway
	views
)

// Entry is an object as it is served, at one version. It never changes, and each encoding of it that anybody asks for is
// made once for all that do.
type Entry struct {
	Object  Object
	Version Version

	json, protobuf [views]encoding
}

// encoding is an encoded object, once somebody has asked for it.
type encoding struct {
	once sync.Once
	data []byte
	err  error
}

// newEntry gives an object a version. The object itself belongs to the cluster's side and is not changed.
func newEntry(obj Object, v Version) *Entry {
	obj = shallowCopy(obj)
	obj.SetResourceVersion(v.String())
	return &Entry{Object: obj, Version: v}
}

// JSON returns the object as JSON. It must not be changed.
func (e *Entry) JSON(view View) ([]byte, error) {
	return e.encode(&e.json[view], view, func(obj Object) ([]byte, error) { return json.Marshal(obj) })
}

// Protobuf returns the object as the message of its kind, without the envelope in which Kubernetes sends it. Kinds that
// are defined by a CustomResourceDefinition have none. It must not be changed.
func (e *Entry) Protobuf(view View) ([]byte, error) {
	return e.encode(&e.protobuf[view], view, func(obj Object) ([]byte, error) {
		message, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf encoding", obj)
		}
		return message.Marshal()
	})
}

func (e *Entry) encode(as *encoding, view View, marshal func(Object) ([]byte, error)) ([]byte, error) {
	as.once.Do(func() {
		obj := e.Object
		if view == ForGateway {
			obj = forGateway(obj)
		}
		if as.data, as.err = marshal(obj); as.err != nil {
			as.err = fmt.Errorf("encoding %s/%s: %w", e.Object.GetNamespace(), e.Object.GetName(), as.err)
		}
	})
	return as.data, as.err
}

// Event is one change. Object is what is served from Version on, or, when it was deleted, the last of it, at Version.
type Event struct {
	Type    watch.EventType
	Version Version
	Object  *Entry
	// Old is what was served before; nil when the object was added.
	Old *Entry
	// Minor is a change of nothing that gateways need.
	Minor bool
	// At is when it happened here.
	At time.Time
}

// At returns the object under a later version, as it is told to those whose selection it left.
func (e *Entry) At(v Version) *Entry { return newEntry(e.Object, v) }

// forGateway returns what a gateway needs of an object, at the same version.
func forGateway(obj Object) Object {
	var brief Object
	switch o := obj.(type) {
	case *v1alpha1.Mapping:
		brief = filter.GatewayMapping(o)
	case *corev1.Service:
		brief = filter.GatewayService(o)
	case *discoveryv1.EndpointSlice:
		brief = filter.GatewayEndpointSlice(o)
	default:
		return obj
	}
	brief.SetResourceVersion(obj.GetResourceVersion())
	return brief
}

// shallowCopy copies what is needed to give an object another resource version.
func shallowCopy(obj Object) Object {
	switch o := obj.(type) {
	case *v1alpha1.Mapping:
		c := *o
		return &c
	case *corev1.Service:
		c := *o
		return &c
	case *discoveryv1.EndpointSlice:
		c := *o
		return &c
	}
	return obj.DeepCopyObject().(Object)
}
