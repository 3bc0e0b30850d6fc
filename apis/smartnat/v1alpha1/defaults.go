// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "strings"

// SetDefaults fills in what the author of a Mapping left out, and writes the protocols in lower case.
// It is idempotent, and leaves what is not valid as it is for validation to name.
func SetDefaults(m *Mapping) {
	if m.Spec.Mode == "" {
		m.Spec.Mode = ModeService
	}
	for i := range m.Spec.Ports {
		p := &m.Spec.Ports[i]
		if p.ServicePort == 0 {
			p.ServicePort = p.Port
		}
		if p.Protocol == "" {
			p.Protocol = ProtocolTCP
		}
		p.Protocol = Protocol(strings.ToLower(string(p.Protocol)))
	}
}
