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

// door rejects objects that no API server would have stored, whichever server sent them. It counts rejections and logs
// each object once.
type door struct {
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

// admits reports whether an object is valid.
func (d *door) admits(object metav1.Object) bool {
	err := objects.Validate(object)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		delete(d.named, keyOf(object))
		return true
	}
	d.rejected++
	if _, known := d.named[keyOf(object)]; known || len(d.named) >= maxNamed {
		return false
	}
	if d.named == nil {
		d.named = map[objectKey]struct{}{}
	}
	d.named[keyOf(object)] = struct{}{}
	d.log.WithError(err).WithField("object", objects.ID(object)).Warn("rejected invalid object")
	return false
}

// forget removes a deleted object from the memory of rejected ones.
func (d *door) forget(object metav1.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.named, keyOf(object))
}

// count returns the number of rejections since the start.
func (d *door) count() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rejected
}
