// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Snapshot is what a source knew at one instant, no two objects of a kind with one name. Objects and lists are shared with
// caches and must not be changed: one that says something else is another one. In whatever order they come, the outcome is
// the same; that Snapshots come in the same order makes it cheap to see what is another one.
type Snapshot struct {
	Mappings       []*v1alpha1.Mapping
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
}

// Finding says why a Mapping is not, or only partly, in effect; or, without Namespace and Name, what is wrong with the host.
type Finding struct {
	// Namespace and Name are the Mapping's.
	Namespace, Name string
	// Condition is the one of v1alpha1's conditions that the finding is about; none when it is about the host.
	Condition string
	// Reason is CamelCase and stable, for programs.
	Reason string
	// Field is the path that the finding is about, "spec.ports[1].servicePort"; of the config when it is about the host.
	Field string
	// Message is for people: what, where, what would be right.
	Message string
}

// The reasons of Findings about a Mapping.
const (
	// ReasonInvalid: the field does not pass validation; the whole Mapping stays out.
	ReasonInvalid = "Invalid"
	// ReasonPortConflict: an older Mapping has ports that it asks for; these alone stay out, also out of a range.
	ReasonPortConflict = "PortConflict"
	// ReasonTooManyPorts: the config of this host does not let a Mapping have as many; the whole Mapping stays out.
	ReasonTooManyPorts = "TooManyPorts"
	// ReasonNoSources: sources are allowed, but none of an address's family; nobody can connect to it.
	ReasonNoSources = "NoSources"
	// ReasonServiceNotFound and those below: connections are rejected until the Service is right.
	ReasonServiceNotFound     = "ServiceNotFound"
	ReasonServiceExternalName = "ServiceExternalName"
	ReasonServiceHeadless     = "ServiceHeadless"
	ReasonNoClusterIP         = "NoClusterIP"
	ReasonServicePortNotFound = "ServicePortNotFound"
	// ReasonIPFamilyNotSupported: the Service is not of the address's family; connections to that address are rejected.
	ReasonIPFamilyNotSupported = "IPFamilyNotSupported"
	// ReasonServiceInvalid: the Service says what no API server would have let through, and the message what is made of it.
	ReasonServiceInvalid = "ServiceInvalid"
	// ReasonAffinityIneffective: the cluster cannot keep clients apart that it sees as one. All else is in effect.
	ReasonAffinityIneffective = "SessionAffinityIneffective"
	// ReasonTrafficPolicyLocal: nodes without an endpoint drop what the gateway sends them. All else is in effect.
	ReasonTrafficPolicyLocal = "InternalTrafficPolicyLocal"
	// ReasonEndpointSliceInvalid: the same of an EndpointSlice; what makes no sense is left out.
	ReasonEndpointSliceInvalid = "EndpointSliceInvalid"
	// ReasonNoReadyEndpoints: connections are rejected until an endpoint is ready.
	ReasonNoReadyEndpoints = "NoReadyEndpoints"
	// ReasonAddressNotOnHost: the address is another gateway's, or nobody's; it stays out here.
	ReasonAddressNotOnHost = "AddressNotOnHost"
	// ReasonAddressNotServed: the host has the address, but the config does not let Mappings use it; it stays out here.
	ReasonAddressNotServed = "AddressNotServed"
	// ReasonNotAnUplink: addressesFrom name no uplink of this host; another gateway may have it.
	ReasonNotAnUplink = "NotAnUplink"
	// ReasonNoUplinkAddress: the uplink has no address now that the Mapping could be served at.
	ReasonNoUplinkAddress = "NoUplinkAddress"
	// ReasonTooManyAddresses: an uplink has more addresses than a Mapping may; only these stay out.
	ReasonTooManyAddresses = "TooManyAddresses"
	// ReasonPortReserved: the port is the host's own, or of a program on it; only this port stays out here.
	ReasonPortReserved = "PortReserved"
	// ReasonTooExpensive: the config of this host does not let a Mapping cost as many rules; the whole Mapping stays out.
	ReasonTooExpensive = "TooExpensive"
	// ReasonEndpointNotAllowed: nothing is led to such an address, or nothing proves that a pod of the namespace has it; only
	// this endpoint stays out.
	ReasonEndpointNotAllowed = "EndpointNotAllowed"
	// ReasonRoutedOutside: this host routes endpoints or a ClusterIP out of a link to the outside, another way than inside.
	ReasonRoutedOutside = "RoutedOutside"
	// ReasonIPv6Disabled: the config turns IPv6 off; the address stays out here.
	ReasonIPv6Disabled = "IPv6Disabled"
	// ReasonSCTPNotSupported: the kernel of this host cannot translate SCTP; the port stays out here.
	ReasonSCTPNotSupported = "SCTPNotSupported"
	// ReasonRuleRefused: iptables or the kernel of this host refuses a rule of it, which is found out as it is programmed; what
	// it had in effect of the family stays, as far as it still asks for that.
	ReasonRuleRefused = "RuleRefused"
	// ReasonMasqueradeIgnored: masquerade: false does not reach the pods, as the cluster hides the clients' addresses in service mode.
	ReasonMasqueradeIgnored = "MasqueradeIgnored"
	// ReasonSourcePortsLow: the masquerade of connections to a backend hardly has a source port left. All is forwarded.
	ReasonSourcePortsLow = "SourcePortsLow"
	// ReasonNoUplink: no address is on an uplink, so pods do not leave with it.
	ReasonNoUplink = "NoUplink"
	// ReasonNoInsideLink: this host has uplinks alone, and the config does not say that pods are behind one; pods do not leave with
	// the address.
	ReasonNoInsideLink = "NoInsideLink"
	// ReasonEgressConflict: an older Mapping says with which address the pods leave.
	ReasonEgressConflict = "EgressConflict"
)

// The reasons of Findings about the host.
const (
	ReasonLinkNotFound   = "LinkNotFound"
	ReasonLinkDown       = "LinkDown"
	ReasonNoGateway      = "NoGateway"
	ReasonTooManyUplinks = "TooManyUplinks"
	// ReasonLinkIsPort: an uplink is a port of a bridge or bond, which is taken for the uplink.
	ReasonLinkIsPort = "LinkIsPort"
	// ReasonLinkOutside: a link that is no uplink is taken to lead to the outside.
	ReasonLinkOutside = "LinkOutside"
	// ReasonSwitchedFrames: netfilter is given frames that bridges switch, and rules cannot tell them.
	ReasonSwitchedFrames     = "SwitchedFramesFiltered"
	ReasonNextHopUnreachable = "NextHopUnreachable"
)

// Blocks reports whether connections to some of what the Mapping asks of this host are not forwarded for the finding. A reason
// that is not known to be harmless does.
func (f Finding) Blocks() bool {
	switch f.Reason {
	case ReasonServiceInvalid, ReasonEndpointSliceInvalid, ReasonNoUplink, ReasonEgressConflict, ReasonMasqueradeIgnored,
		ReasonAffinityIneffective, ReasonTrafficPolicyLocal, ReasonNoInsideLink, ReasonEndpointNotAllowed, ReasonSourcePortsLow:
		return false
	}
	return f.Name != "" && !f.Elsewhere()
}

// Elsewhere reports whether the finding is about an address or uplink that this host does not have: most likely that of another
// gateway, which is nothing to be warned of here. Whether any gateway has it is in the status of the Mapping.
func (f Finding) Elsewhere() bool {
	return f.Reason == ReasonAddressNotOnHost || f.Reason == ReasonNotAnUplink
}

// String returns the finding on one line.
func (f Finding) String() string {
	text := fmt.Sprintf("%s: %s (%s)", f.Field, f.Message, f.Reason)
	if f.Name == "" {
		return text
	}
	return fmt.Sprintf("Mapping %s/%s: %s", f.Namespace, f.Name, text)
}
