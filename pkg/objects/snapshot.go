// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Snapshot is what a source knew at one instant; names are unique per kind. Objects and lists are shared with caches and must
// not be changed: a changed object has another pointer. The order does not affect the result, but a stable order makes changes
// cheap to find.
type Snapshot struct {
	Mappings       []*v1alpha1.Mapping
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	PortGrants     []*v1alpha1.PortGrant
	// Namespaces are at least those of valid Mappings.
	Namespaces []*corev1.Namespace
}
