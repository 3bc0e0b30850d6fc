// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"reflect"
	"sync"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/objects"
)

// maxNamed bounds the memory of rejected objects, and so the number of log lines about them.
const maxNamed = 1000

// validator rejects objects that no API server would have stored, whichever server sent them. It counts rejections and logs
// each object once.
type validator struct {
	log logrus.FieldLogger

	mu       sync.Mutex
	rejected int64
	named    map[objectKey]struct{}
}

type objectKey struct {
	kind            reflect.Type
	namespace, name string
}

func keyOf(object metav1.Object) objectKey {
	return objectKey{reflect.TypeOf(object), object.GetNamespace(), object.GetName()}
}

// accept reports whether an object is valid.
func (v *validator) accept(object metav1.Object) bool {
	err := objects.Validate(object)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		delete(v.named, keyOf(object))
		return true
	}
	v.rejected++
	if _, known := v.named[keyOf(object)]; known || len(v.named) >= maxNamed {
		return false
	}
	if v.named == nil {
		v.named = map[objectKey]struct{}{}
	}
	v.named[keyOf(object)] = struct{}{}
	v.log.WithError(err).WithField("object", objects.ID(object)).Warn("rejected invalid object")
	return false
}

// forget removes a deleted object from the memory of rejected ones.
func (v *validator) forget(object metav1.Object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.named, keyOf(object))
}

// count returns the number of rejections since the start.
func (v *validator) count() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rejected
}
