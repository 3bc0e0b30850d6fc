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

// Entry is an object as it is served, at one version. It never changes, and it is encoded once for all that ask for it.
type Entry struct {
	Object  Object
	Version Version

	encodeOnce sync.Once
	encoded    []byte
	encodeErr  error
}

// newEntry gives an object a version. The object itself belongs to the cluster's side and is not changed.
func newEntry(obj Object, v Version) *Entry {
	obj = shallowCopy(obj)
	obj.SetResourceVersion(v.String())
	return &Entry{Object: obj, Version: v}
}

// JSON returns the encoded object. It must not be changed.
func (e *Entry) JSON() ([]byte, error) {
	e.encodeOnce.Do(func() {
		if e.encoded, e.encodeErr = json.Marshal(e.Object); e.encodeErr != nil {
			e.encodeErr = fmt.Errorf("encoding %s/%s: %w", e.Object.GetNamespace(), e.Object.GetName(), e.encodeErr)
		}
	})
	return e.encoded, e.encodeErr
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
