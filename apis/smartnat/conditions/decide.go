// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Facts are the inputs of Decide.
type Facts struct {
	// Mapping holds the current status: the reports of the gateways and the transition times of the conditions.
	Mapping *v1alpha1.Mapping
	// Conflicts are the ports that the Mapping did not get.
	Conflicts conflicts.Lost
	// Service is the Service that the Mapping names, or nil.
	Service *corev1.Service
	// Reporting is set if a gateway reports the status of any Mapping. If none does, it is unknown whether a gateway holds
	// an address.
	Reporting bool
}

// Decide returns the status without the entries of the gateways. A condition whose status is unchanged keeps its
// transition time; otherwise the time is now.
func Decide(f Facts, now metav1.Time) v1alpha1.MappingStatus {
	m := f.Mapping.DeepCopy()
	v1alpha1.SetDefaults(m)
	errs := validation.ValidateMapping(m)
	status := v1alpha1.MappingStatus{
		Addresses: describeAddresses(m), Ports: describePorts(m), Endpoints: mostEndpoints(m), Gateways: column(forwarding(m)),
	}
	if len(errs) == 0 {
		status.ServiceVIP = serviceVIP(m, f.Service)
	}
	all := []metav1.Condition{accepted(m, errs, f.Conflicts), resolvedRefs(m, errs, f.Service), programmed(m, errs, f.Conflicts, f.Reporting)}
	for _, c := range append(all, ready(m, all)) {
		c.ObservedGeneration = m.Generation
		c.LastTransitionTime = now
		if before := meta.FindStatusCondition(m.Status.Conditions, c.Type); before != nil && before.Status == c.Status {
			c.LastTransitionTime = before.LastTransitionTime
		}
		status.Conditions = append(status.Conditions, c)
	}
	return status
}

// Holds reports whether have contains everything that was decided.
func Holds(have, decided v1alpha1.MappingStatus) bool {
	return have.Addresses == decided.Addresses && have.Ports == decided.Ports && have.ServiceVIP == decided.ServiceVIP &&
		have.Gateways == decided.Gateways && ptr.Equal(have.Endpoints, decided.Endpoints) &&
		!slices.ContainsFunc(decided.Conditions, func(c metav1.Condition) bool {
			is := meta.FindStatusCondition(have.Conditions, c.Type)
			return is == nil || !equality.Semantic.DeepEqual(*is, c)
		})
}
