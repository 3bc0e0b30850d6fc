// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/smartnat/smartnat/apis/kinds"
)

// strip returns a copy that holds only the fields that gateways use, without the kind, which few servers send. The copy is
// never part of a decoded list, because a single object would keep the whole list in memory.
func strip(kind *kinds.Kind, object kinds.Object) kinds.Object {
	kept := kind.ForGateway(object)
	kept.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return kept
}
