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

// maxNamed bounds how many rejected objects are remembered, and so how many are logged before some of them are gone.
const maxNamed = 1000

// door keeps out the objects that no API server would have stored, whatever server they come from. It counts them, and logs
// each of them once.
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

// admits reports whether the object may be used.
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
	d.log.WithError(err).WithField("object", objects.ID(object)).Warn("rejected an object that no API server would have stored")
	return false
}

// forget drops what is known of an object that is gone.
func (d *door) forget(object metav1.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.named, keyOf(object))
}

// count is how often an object was rejected since the start.
func (d *door) count() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rejected
}
