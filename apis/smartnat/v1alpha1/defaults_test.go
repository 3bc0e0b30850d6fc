// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSetDefaults(t *testing.T) {
	end := int32(90)
	m := &Mapping{Spec: MappingSpec{Ports: []MappingPort{
		{Port: 80}, {Port: 81, ServicePort: 8081, Protocol: "UDP"}, {Port: 82, EndPort: &end, Protocol: "nonsense"},
	}}}
	want := &Mapping{Spec: MappingSpec{Mode: ModeService, Ports: []MappingPort{
		{Port: 80, ServicePort: 80, Protocol: ProtocolTCP}, {Port: 81, ServicePort: 8081, Protocol: ProtocolUDP},
		{Port: 82, EndPort: &end, ServicePort: 82, Protocol: "nonsense"},
	}}}
	for _, time := range []string{"once", "twice"} {
		SetDefaults(m)
		if diff := cmp.Diff(want, m); diff != "" {
			t.Errorf("%s (-want +got):\n%s", time, diff)
		}
	}
	endpoints := &Mapping{Spec: MappingSpec{Mode: ModeEndpoints}}
	if SetDefaults(endpoints); endpoints.Spec.Mode != ModeEndpoints {
		t.Errorf("mode endpoints became %s", endpoints.Spec.Mode)
	}
}
