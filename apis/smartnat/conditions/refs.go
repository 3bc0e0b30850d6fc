// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Reasons of the condition ResolvedRefs.
const (
	// ReasonResolvedRefs means that the Service exists and has the ports.
	ReasonResolvedRefs = "ResolvedRefs"
	// ReasonServiceNotFound means that the namespace has no Service of that name. Connections are refused.
	ReasonServiceNotFound = "ServiceNotFound"
	// ReasonServiceExternalName means that the Service is only a name in DNS. Connections are refused.
	ReasonServiceExternalName = "ServiceExternalName"
	// ReasonServiceHeadless means that the Service has no ClusterIP by its spec, which mode service needs. Connections are
	// refused; mode endpoints works.
	ReasonServiceHeadless = "ServiceHeadless"
	// ReasonNoClusterIP means that the cluster has not given the Service a ClusterIP yet. Connections are refused.
	ReasonNoClusterIP = "NoClusterIP"
	// ReasonServicePortNotFound means that the Service lacks a port or its protocol. Connections to that port are refused.
	ReasonServicePortNotFound = "ServicePortNotFound"
	// ReasonIPFamilyNotSupported means that the Service lacks the family of an address. Connections to that address are refused.
	ReasonIPFamilyNotSupported = "IPFamilyNotSupported"
)

// resolvedRefs expects a defaulted Mapping.
func resolvedRefs(m *v1alpha1.Mapping, errs field.ErrorList, s *corev1.Service) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionResolvedRefs, Status: metav1.ConditionFalse}
	if len(errs) > 0 {
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, ReasonInvalid, "the Mapping is invalid"
		return c
	}
	c.Reason, c.Message = serviceProblem(m, s)
	if c.Reason == "" {
		c.Reason, c.Message = portProblem(m, s)
	}
	if c.Reason == "" {
		c.Reason, c.Message = familyProblem(m, s)
	}
	if c.Reason != "" {
		c.Message += "; connections are rejected"
		return c
	}
	c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonResolvedRefs, fmt.Sprintf("Service %s/%s has all ports", m.Namespace, s.Name)
	return c
}

func serviceProblem(m *v1alpha1.Mapping, s *corev1.Service) (reason, message string) {
	name := m.Namespace + "/" + m.Spec.ServiceName
	switch {
	case s == nil:
		return ReasonServiceNotFound, fmt.Sprintf("Service %s does not exist", name)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return ReasonServiceExternalName, fmt.Sprintf("Service %s is of type ExternalName, which has no address in the cluster", name)
	case m.Spec.Mode == v1alpha1.ModeEndpoints:
		return "", ""
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return ReasonServiceHeadless, fmt.Sprintf("Service %s is headless (clusterIP: None), which requires mode endpoints", name)
	case len(clusterIPs(s)) == 0:
		return ReasonNoClusterIP, fmt.Sprintf("Service %s has no clusterIP yet", name)
	}
	return "", ""
}

// portProblem names the ports that the Service lacks. A range leads directly to the pods, so the Service need not have its
// ports.
func portProblem(m *v1alpha1.Mapping, s *corev1.Service) (reason, message string) {
	var missing []string
	for _, p := range m.Spec.Ports {
		if p.EndPort == nil && !slices.ContainsFunc(s.Spec.Ports, func(has corev1.ServicePort) bool {
			return has.Port == p.ServicePort && protocol(has) == p.Protocol
		}) {
			missing = append(missing, fmt.Sprintf("%d/%s", p.ServicePort, p.Protocol))
		}
	}
	if len(missing) == 0 {
		return "", ""
	}
	has := []string{"none"}
	if len(s.Spec.Ports) > 0 {
		has = nil
	}
	for _, p := range s.Spec.Ports {
		has = append(has, fmt.Sprintf("%d/%s", p.Port, protocol(p)))
	}
	return ReasonServicePortNotFound, fmt.Sprintf("Service %s/%s has no port %s, only %s", s.Namespace, s.Name, joinFirst(missing, ", "), joinFirst(has, ", "))
}

// familyProblem names the addresses of a family that the Service does not have.
func familyProblem(m *v1alpha1.Mapping, s *corev1.Service) (reason, message string) {
	families := s.Spec.IPFamilies
	if m.Spec.Mode == v1alpha1.ModeService {
		families = nil
		for _, a := range clusterIPs(s) {
			families = append(families, family(a))
		}
	}
	if len(families) == 0 {
		return "", "" // not known yet
	}
	var lost []string
	for _, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(families, family(a)) {
			lost = append(lost, text)
		}
	}
	if len(lost) == 0 {
		return "", ""
	}
	return ReasonIPFamilyNotSupported, fmt.Sprintf("Service %s/%s has only %v addresses, so %s has no backends", s.Namespace, s.Name, families[0], joinFirst(lost, ", "))
}

func protocol(p corev1.ServicePort) v1alpha1.Protocol {
	return v1alpha1.Protocol(strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP))))
}

func family(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// clusterIPs returns the valid addresses: not "None" and not an empty one.
func clusterIPs(s *corev1.Service) []netip.Addr {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// serviceVIP returns the first cluster IP in mode service. Mode endpoints does not use it.
func serviceVIP(m *v1alpha1.Mapping, s *corev1.Service) string {
	if s == nil || m.Spec.Mode != v1alpha1.ModeService || s.Spec.Type == corev1.ServiceTypeExternalName {
		return ""
	}
	if addrs := clusterIPs(s); len(addrs) > 0 {
		return addrs[0].String()
	}
	return ""
}
