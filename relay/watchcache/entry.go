// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/json"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is an object of any of the kinds.
type Object interface {
	runtime.Object
	metav1.Object
}

// Entry is an object as it is served, at one version. It never changes, and each encoding of it that anybody asks for is
// made once for all that do.
type Entry struct {
	Object  Object
	Version Version

	json, protobuf encoding
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
func (e *Entry) JSON() ([]byte, error) {
	return e.encode(&e.json, func(obj Object) ([]byte, error) { return json.Marshal(obj) })
}

// Protobuf returns the object as the message of its kind, without the envelope in which Kubernetes sends it. Kinds that
// are defined by a CustomResourceDefinition have none. It must not be changed.
func (e *Entry) Protobuf() ([]byte, error) {
	return e.encode(&e.protobuf, func(obj Object) ([]byte, error) {
		message, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("%T has no protobuf encoding", obj)
		}
		return message.Marshal()
	})
}

func (e *Entry) encode(as *encoding, marshal func(Object) ([]byte, error)) ([]byte, error) {
	as.once.Do(func() {
		if as.data, as.err = marshal(e.Object); as.err != nil {
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
}

// At returns the object under a later version, as it is told to those whose selection it left.
func (e *Entry) At(v Version) *Entry { return newEntry(e.Object, v) }
