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

// Facts are all that the status of a Mapping follows from.
type Facts struct {
	// Mapping holds the status that there is: the reports of the gateways, and since when the conditions are what they are.
	Mapping *v1alpha1.Mapping
	// Conflicts are what it did not get.
	Conflicts conflicts.Losses
	// Service is the one that it names; nil where there is none.
	Service *corev1.Service
	// Reporting is set when a gateway reports the status of any Mapping. Where none does, that no gateway holds an address is
	// not known.
	Reporting bool
}

// Decide returns the status but for the entries of the gateways. A condition that stays what it was keeps its time; one that
// changes does so now.
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

// Holds reports whether a status says already all that was decided.
func Holds(have, decided v1alpha1.MappingStatus) bool {
	return have.Addresses == decided.Addresses && have.Ports == decided.Ports && have.ServiceVIP == decided.ServiceVIP &&
		have.Gateways == decided.Gateways && ptr.Equal(have.Endpoints, decided.Endpoints) &&
		!slices.ContainsFunc(decided.Conditions, func(c metav1.Condition) bool {
			is := meta.FindStatusCondition(have.Conditions, c.Type)
			return is == nil || !equality.Semantic.DeepEqual(*is, c)
		})
}
