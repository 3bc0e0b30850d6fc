// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Limits of the priority and of the number of ports of a PortGrant.
const (
	maxPriority   = 1000
	maxGrantPorts = 1 << 24
)

// ValidatePortGrant returns all errors of a PortGrant, in the order of its fields. The PortGrant is not modified.
func ValidatePortGrant(g *v1alpha1.PortGrant) field.ErrorList {
	path := field.NewPath("spec")
	errs := ValidateGrantedPorts(&g.Spec, path)
	if len(g.Spec.Namespaces) == 0 && g.Spec.NamespaceSelector == nil {
		errs = append(errs, field.Required(path.Child("namespaces"),
			"must hold at least one namespace, or namespaceSelector must select them ({} selects all)"))
	}
	if selector := g.Spec.NamespaceSelector; selector != nil {
		if !isSmall(selector) {
			errs = append(errs, field.Invalid(path.Child("namespaceSelector"), field.OmitValueType{}, fmt.Sprintf(
				"must have at most %d labels and %[1]d expressions of %d values", v1alpha1.MaxSelectorTerms, v1alpha1.MaxSelectorValues)))
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{},
			path.Child("namespaceSelector"))...)
	}
	return errs
}

// isSmall reports whether a selector is cheap enough to be matched with all namespaces.
func isSmall(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels) <= v1alpha1.MaxSelectorTerms && len(s.MatchExpressions) <= v1alpha1.MaxSelectorTerms &&
		!slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return len(r.Values) > v1alpha1.MaxSelectorValues })
}

// ValidateGrantedPorts returns the errors of everything in the spec of a PortGrant but who must be granted something.
func ValidateGrantedPorts(spec *v1alpha1.PortGrantSpec, path *field.Path) field.ErrorList {
	errs := validateGrantedAddresses(spec.Addresses, path.Child("addresses"))
	if n, at := len(spec.Ports), path.Child("ports"); n > v1alpha1.MaxGrantPorts {
		errs = append(errs, field.TooMany(at, n, v1alpha1.MaxGrantPorts))
	} else {
		for i := range spec.Ports {
			errs = append(errs, validateGrantedPorts(&spec.Ports[i], at.Index(i))...)
		}
	}
	errs = append(errs, validateNamespaces(spec.Namespaces, path.Child("namespaces"))...)
	errs = append(errs, validateNetworks(spec.AllowedSources, v1alpha1.MaxGrantSources, path.Child("allowedSources"))...)
	if spec.MaxPorts < 0 || spec.MaxPorts > maxGrantPorts {
		errs = append(errs, field.Invalid(path.Child("maxPorts"), spec.MaxPorts, fmt.Sprintf("must be between 0 and %d", maxGrantPorts)))
	}
	if spec.Priority < -maxPriority || spec.Priority > maxPriority {
		errs = append(errs, field.Invalid(path.Child("priority"), spec.Priority, fmt.Sprintf("must be between %d and %d", -maxPriority, maxPriority)))
	}
	return errs
}

func validateGrantedAddresses(addresses []string, path *field.Path) field.ErrorList {
	if len(addresses) == 0 {
		return field.ErrorList{field.Required(path, "must hold at least one address or network")}
	}
	if len(addresses) > v1alpha1.MaxGrantAddresses {
		return field.ErrorList{field.TooMany(path, len(addresses), v1alpha1.MaxGrantAddresses)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, text := range addresses {
		if _, problem := ParseGrantedAddress(text); problem != "" {
			errs = append(errs, field.Invalid(path.Index(i), shorten(text), problem))
		} else if seen[text] {
			errs = append(errs, field.Duplicate(path.Index(i), text))
		}
		seen[text] = true
	}
	return errs
}

// ParseGrantedAddress returns an address, as a network of its own, or a network of a PortGrant, or the problem with text.
func ParseGrantedAddress(text string) (netip.Prefix, string) {
	if addr, err := netip.ParseAddr(text); err == nil {
		switch {
		case addr.Zone() != "":
			return netip.Prefix{}, "has a zone; must be an address without one, such as 2001:db8::10"
		case addr.Is4In6():
			return netip.Prefix{}, fmt.Sprintf("is an IPv4-mapped IPv6 address; must be written as %s", addr.Unmap())
		}
		return netip.PrefixFrom(addr, addr.BitLen()), ""
	}
	if _, err := netip.ParsePrefix(text); err != nil {
		return netip.Prefix{}, "must be an IP address such as 192.0.2.10, or a network in CIDR notation such as 192.0.2.0/24 or 2001:db8::/64"
	}
	return parseSource(text)
}

func validateGrantedPorts(p *v1alpha1.GrantedPorts, path *field.Path) field.ErrorList {
	errs := validatePortNumber(p.Port, path.Child("port"))
	if p.EndPort != nil {
		errs = append(errs, validatePortNumber(*p.EndPort, path.Child("endPort"))...)
		if len(errs) == 0 && *p.EndPort < p.Port {
			errs = append(errs, field.Invalid(path.Child("endPort"), *p.EndPort, fmt.Sprintf("must not be below port %d", p.Port)))
		}
	}
	switch v1alpha1.Protocol(strings.ToLower(string(p.Protocol))) {
	case "", v1alpha1.ProtocolTCP, v1alpha1.ProtocolUDP, v1alpha1.ProtocolSCTP:
		return errs
	}
	return append(errs, protocolNotSupported(p.Protocol, path.Child("protocol")))
}

func validateNamespaces(namespaces []string, path *field.Path) field.ErrorList {
	if len(namespaces) > v1alpha1.MaxGrantNamespaces {
		return field.ErrorList{field.TooMany(path, len(namespaces), v1alpha1.MaxGrantNamespaces)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range namespaces {
		switch {
		case len(validation.IsDNS1123Label(name)) > 0:
			errs = append(errs, field.Invalid(path.Index(i), shorten(name), fmt.Sprintf("must be the name of a namespace: at most %d "+
				"lower case letters, digits and '-', beginning and ending with a letter or digit", validation.DNS1123LabelMaxLength)))
		case seen[name]:
			errs = append(errs, field.Duplicate(path.Index(i), name))
		}
		seen[name] = true
	}
	return errs
}
