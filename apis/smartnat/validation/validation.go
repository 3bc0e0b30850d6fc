// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

const maxPort = 65535

// ValidateMapping returns all errors of a Mapping, in the order of its fields. The Mapping need not be defaulted and is
// not modified.
func ValidateMapping(m *v1alpha1.Mapping) field.ErrorList {
	defaulted := m.DeepCopy()
	v1alpha1.SetDefaults(defaulted)
	spec, path := &defaulted.Spec, field.NewPath("spec")

	errs := validateAddresses(spec.Addresses, len(spec.AddressesFrom) > 0, path.Child("addresses"))
	errs = append(errs, validateAddressesFrom(spec.AddressesFrom, path.Child("addressesFrom"))...)
	errs = append(errs, validateNetworks(spec.AllowedSources, v1alpha1.MaxAllowedSources, path.Child("allowedSources"))...)
	errs = append(errs, validateServiceName(spec.ServiceName, path.Child("serviceName"))...)
	errs = append(errs, validateMode(spec.Mode, path.Child("mode"))...)
	return append(errs, validatePorts(spec.Ports, spec.Mode, path.Child("ports"))...)
}

func validateAddresses(addresses []string, others bool, path *field.Path) field.ErrorList {
	if len(addresses) == 0 && !others {
		return field.ErrorList{field.Required(path, "must hold at least one IPv4 or IPv6 address, or addressesFrom must name an uplink")}
	}
	if len(addresses) > v1alpha1.MaxAddresses {
		return field.ErrorList{field.TooMany(path, len(addresses), v1alpha1.MaxAddresses)}
	}
	var errs field.ErrorList
	seen := map[netip.Addr]int{}
	for i, text := range addresses {
		addr, problem := parseAddress(text)
		if problem != "" {
			errs = append(errs, field.Invalid(path.Index(i), shorten(text), problem))
			continue
		}
		if first, twice := seen[addr]; twice {
			errs = append(errs, duplicate(path.Index(i), text, "the same address as "+path.Index(first).String()))
			continue
		}
		seen[addr] = i
	}
	return errs
}

func validateAddressesFrom(sources []v1alpha1.AddressSource, path *field.Path) field.ErrorList {
	if len(sources) > v1alpha1.MaxAddressesFrom {
		return field.ErrorList{field.TooMany(path, len(sources), v1alpha1.MaxAddressesFrom)}
	}
	var errs field.ErrorList
	seen := map[string]int{}
	for i, source := range sources {
		at := path.Index(i).Child("uplink")
		if !validUplink(source.Uplink) {
			errs = append(errs, field.Invalid(at, shorten(source.Uplink), fmt.Sprintf("must be the name of a link such as eth1, "+
				"or %s for all uplinks; a name has at most %d ASCII characters, none of them a blank, '/', ':' or '*'", v1alpha1.AllUplinks, maxLinkName)))
			continue
		}
		if first, twice := seen[source.Uplink]; twice {
			errs = append(errs, duplicate(at, source.Uplink, "the same uplink as "+path.Index(first).String()))
			continue
		}
		seen[source.Uplink] = i
	}
	return errs
}

func validateNetworks(sources []string, most int, path *field.Path) field.ErrorList {
	if len(sources) > most {
		return field.ErrorList{field.TooMany(path, len(sources), most)}
	}
	var errs field.ErrorList
	seen := map[netip.Prefix]int{}
	for i, text := range sources {
		prefix, problem := parseSource(text)
		if problem != "" {
			errs = append(errs, field.Invalid(path.Index(i), shorten(text), problem))
			continue
		}
		if first, twice := seen[prefix]; twice {
			errs = append(errs, duplicate(path.Index(i), text, "the same network as "+path.Index(first).String()))
			continue
		}
		seen[prefix] = i
	}
	return errs
}

func validateServiceName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "must be the name of a Service in the Mapping's namespace")}
	}
	if len(name) > validation.DNS1123LabelMaxLength || len(validation.IsDNS1123Label(name)) > 0 {
		return field.ErrorList{field.Invalid(path, shorten(name), fmt.Sprintf("must be the name of a Service: at most %d "+
			"lower case letters, digits and '-', beginning and ending with a letter or digit", validation.DNS1123LabelMaxLength))}
	}
	return nil
}

func validateMode(mode v1alpha1.Mode, path *field.Path) field.ErrorList {
	switch mode {
	case v1alpha1.ModeService, v1alpha1.ModeEndpoints:
		return nil
	}
	return field.ErrorList{field.NotSupported(path, v1alpha1.Mode(shorten(string(mode))), []v1alpha1.Mode{v1alpha1.ModeService, v1alpha1.ModeEndpoints})}
}

func validatePorts(ports []v1alpha1.MappingPort, mode v1alpha1.Mode, path *field.Path) field.ErrorList {
	if len(ports) == 0 {
		return field.ErrorList{field.Required(path, "must hold at least one port")}
	}
	if len(ports) > v1alpha1.MaxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), v1alpha1.MaxPorts)}
	}
	var errs field.ErrorList
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		errs = append(errs, validatePort(p, mode, at)...)
		// One overlap per port is enough to find the mistake.
		for j := range ports[:i] {
			if overlap(p, &ports[j]) {
				errs = append(errs, duplicate(at.Child("port"), spell(p),
					fmt.Sprintf("overlaps %s, which exposes %s", path.Index(j), spell(&ports[j]))))
				break
			}
		}
	}
	return errs
}

// validatePort expects a defaulted port.
func validatePort(p *v1alpha1.MappingPort, mode v1alpha1.Mode, path *field.Path) field.ErrorList {
	errs := validatePortNumber(p.Port, path.Child("port"))
	if p.EndPort != nil {
		errs = append(errs, validateEndPort(p, mode, path.Child("endPort"))...)
	}
	// If servicePort defaulted to port, its error is reported already.
	if p.ServicePort != p.Port {
		errs = append(errs, validatePortNumber(p.ServicePort, path.Child("servicePort"))...)
	}
	if last := lastServicePort(p); valid(p.ServicePort) && p.EndPort != nil && valid(*p.EndPort) && last > maxPort {
		errs = append(errs, field.Invalid(path.Child("servicePort"), p.ServicePort, fmt.Sprintf(
			"must leave room for the whole range: it ends at servicePort + endPort - port = %d, which must not be above %d", last, maxPort)))
	}
	switch p.Protocol {
	case v1alpha1.ProtocolTCP, v1alpha1.ProtocolUDP, v1alpha1.ProtocolSCTP:
	default:
		errs = append(errs, protocolNotSupported(p.Protocol, path.Child("protocol")))
	}
	return errs
}

func protocolNotSupported(p v1alpha1.Protocol, path *field.Path) *field.Error {
	return field.NotSupported(path, v1alpha1.Protocol(shorten(string(p))),
		[]v1alpha1.Protocol{v1alpha1.ProtocolTCP, v1alpha1.ProtocolUDP, v1alpha1.ProtocolSCTP})
}

func validateEndPort(p *v1alpha1.MappingPort, mode v1alpha1.Mode, path *field.Path) field.ErrorList {
	errs := validatePortNumber(*p.EndPort, path)
	if len(errs) == 0 && *p.EndPort < p.Port {
		errs = append(errs, field.Invalid(path, *p.EndPort, fmt.Sprintf("must not be below port %d", p.Port)))
	}
	if mode != v1alpha1.ModeEndpoints {
		errs = append(errs, field.Forbidden(path, "a range needs mode endpoints"))
	}
	return errs
}

func validatePortNumber(n int32, path *field.Path) field.ErrorList {
	if valid(n) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, n, fmt.Sprintf("must be between 1 and %d", maxPort))}
}

func valid(port int32) bool { return 1 <= port && port <= maxPort }

// last returns the last external port. It ignores an endPort below port, which validateEndPort reports.
func last(p *v1alpha1.MappingPort) int32 {
	if p.EndPort != nil {
		return max(p.Port, *p.EndPort)
	}
	return p.Port
}

// lastServicePort returns 64 bits, because the numbers may be invalid and overflow 32.
func lastServicePort(p *v1alpha1.MappingPort) int64 {
	return int64(p.ServicePort) + int64(last(p)) - int64(p.Port)
}

// overlap returns false for invalid ports, which are reported already.
func overlap(a, b *v1alpha1.MappingPort) bool {
	return valid(a.Port) && valid(b.Port) && a.Protocol == b.Protocol && a.Port <= last(b) && b.Port <= last(a)
}

func spell(p *v1alpha1.MappingPort) string {
	if end := last(p); end != p.Port {
		return fmt.Sprintf("%d-%d/%s", p.Port, end, p.Protocol)
	}
	return fmt.Sprintf("%d/%s", p.Port, p.Protocol)
}

// shorten bounds the length of a value in a message.
func shorten(text string) string {
	const most = 64
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func duplicate(path *field.Path, value any, detail string) *field.Error {
	err := field.Duplicate(path, value)
	err.Detail = detail
	return err
}
