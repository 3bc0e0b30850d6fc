package calc

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Snapshot is what a source knew at one instant. The objects are shared with caches and must not be changed.
type Snapshot struct {
	Mappings       []*v1alpha1.Mapping
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
}

// Finding says why a Mapping is not, or only partly, in effect.
type Finding struct {
	// Namespace and Name are the Mapping's.
	Namespace, Name string
	// Condition is the one of v1alpha1's conditions that the finding is about.
	Condition string
	// Reason is CamelCase and stable, for programs.
	Reason string
	// Field is the path that the finding is about, "spec.ports[1].servicePort".
	Field string
	// Message is for people: what, where, what would be right.
	Message string
}

// String returns the finding on one line.
func (f Finding) String() string {
	return fmt.Sprintf("Mapping %s/%s: %s: %s (%s)", f.Namespace, f.Name, f.Field, f.Message, f.Reason)
}
