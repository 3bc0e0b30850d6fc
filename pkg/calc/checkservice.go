// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
)

// checkService reports values that an API server would have rejected, and how they are treated: the Service may come from a
// file.
func (c *calculation) checkService(m *v1alpha1.Mapping, s *corev1.Service) {
	report := func(format string, args ...any) {
		c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonServiceInvalid, "spec.serviceName",
			"Service %s/%s: %s", s.Namespace, s.Name, fmt.Sprintf(format, args...))
	}
	if m.Spec.Mode == v1alpha1.ModeService {
		checkClusterIPs(s, report)
		c.checkBalancing(m, s)
	} else {
		checkAffinity(s, report)
	}
	checkServicePorts(s, report)
}

// checkBalancing reports settings of a Service that the cluster cannot honor in mode service, because it balances behind the
// gateway and only sees the gateway's address.
func (c *calculation) checkBalancing(m *v1alpha1.Mapping, s *corev1.Service) {
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && c.masquerades(m) {
		c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonAffinityIneffective, "spec.mode",
			"Service %s/%s has sessionAffinity ClientIP, but the cluster sees the gateway as its only client and sends all connections to one endpoint; use mode endpoints for affinity per client",
			s.Namespace, s.Name)
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonTrafficPolicyLocal, "spec.mode",
			"Service %s/%s has internalTrafficPolicy Local, so nodes without an endpoint drop packets from the gateway; use mode endpoints to reach the endpoints on all nodes",
			s.Namespace, s.Name)
	}
}

// masquerades reports whether pods see the gateway's address instead of the client's.
func (c *calculation) masquerades(m *v1alpha1.Mapping) bool {
	if m.Spec.Masquerade != nil {
		return *m.Spec.Masquerade
	}
	return c.cfg.Masquerade
}

func checkClusterIPs(s *corev1.Service, report func(string, ...any)) {
	seen := map[string]bool{}
	for i, text := range clusterIPs(s) {
		a, ok := parseUnicast(text)
		switch {
		case !ok:
			report("clusterIPs[%d]: %.64q is not a unicast address; ignored", i, text)
		case seen[family(a.Is4())]:
			report("clusterIPs[%d]: %s is the second %s address; ignored", i, a, family(a.Is4()))
		default:
			seen[family(a.Is4())] = true
		}
	}
}

func checkAffinity(s *corev1.Service, report func(string, ...any)) {
	switch s.Spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
	case corev1.ServiceAffinityClientIP:
		if n := affinitySeconds(s); !validAffinity(n) {
			report("sessionAffinityConfig.clientIP.timeoutSeconds: %d is not between 1 and %d; using %d",
				n, maxAffinitySeconds, corev1.DefaultClientIPServiceAffinitySeconds)
		}
	default:
		report("sessionAffinity: %.64q is neither None nor ClientIP; using None", s.Spec.SessionAffinity)
	}
}

func checkServicePorts(s *corev1.Service, report func(string, ...any)) {
	type key struct {
		port     int32
		protocol string
	}
	seen := map[key]bool{}
	for i, p := range s.Spec.Ports {
		k := key{p.Port, protocol(p.Protocol)}
		switch {
		case p.Port < 1 || p.Port > maxPort:
			report("ports[%d].port: %d is not between 1 and %d; ignored", i, p.Port, maxPort)
		case k.protocol != "tcp" && k.protocol != "udp" && k.protocol != "sctp":
			report("ports[%d].protocol: %.64q is not TCP, UDP or SCTP; ignored", i, p.Protocol)
		case seen[k]:
			report("ports[%d]: duplicate of %d/%s; using the first one", i, k.port, k.protocol)
		}
		seen[k] = true
	}
}
