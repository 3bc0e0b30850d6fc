// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Overlay returns the objects as they would be at a time after the documents were applied. A new object is the youngest, so that it
// wins no conflict. It returns an error for each document with invalid metadata.
func Overlay(current, documents objects.Snapshot, now time.Time) (objects.Snapshot, error) {
	var store objects.Store
	store.Replace(current)
	var errs []error
	for _, kind := range objects.Kinds() {
		present := map[string]kinds.Object{}
		for _, object := range kind.All(&current) {
			present[objects.ID(object)] = object
		}
		for _, object := range kind.All(&documents) {
			if err := objects.Validate(object); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", objects.ID(object), err))
				continue
			}
			object = object.DeepCopyObject().(kinds.Object)
			object.SetCreationTimestamp(metav1.NewTime(now))
			if old, found := present[objects.ID(object)]; found {
				object.SetCreationTimestamp(old.GetCreationTimestamp())
				object.SetUID(old.GetUID())
			}
			store.Set(object)
		}
	}
	return store.Snapshot(), errors.Join(errs...)
}
