// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "strings"

// SetDefaults sets the defaults of a Mapping and converts protocols to lower case. It is idempotent and leaves invalid
// values for validation to report.
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
