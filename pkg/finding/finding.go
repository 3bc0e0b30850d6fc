// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package finding

import (
	"fmt"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Finding says why a Mapping is not, or only partly, in effect. Without Namespace and Name it is about the host.
type Finding struct {
	// Namespace and Name are the Mapping's.
	Namespace, Name string
	// Condition is one of v1alpha1's conditions, or "" if the finding is about the host.
	Condition string
	// Reason is CamelCase and stable, for programs.
	Reason string
	// Field is the path of a field, as in "spec.ports[1].servicePort"; of the config if the finding is about the host.
	Field string
	// Message is for people: what is wrong, where, and what would be right.
	Message string
}

// New returns a Finding about a Mapping.
func New(m *v1alpha1.Mapping, condition, reason, field, format string, args ...any) Finding {
	return Finding{
		Namespace: m.Namespace, Name: m.Name, Condition: condition, Reason: reason, Field: field, Message: fmt.Sprintf(format, args...),
	}
}

// The reasons of Findings about a Mapping.
const (
	// ReasonInvalid: the field is invalid; the whole Mapping is left out.
	ReasonInvalid = "Invalid"
	// ReasonPortConflict: an older Mapping has ports that it asks for; only these are left out, also from a range.
	ReasonPortConflict = "PortConflict"
	// ReasonTooManyPorts: it exceeds the limit in the config of this host; the whole Mapping is left out.
	ReasonTooManyPorts = "TooManyPorts"
	// ReasonNotGranted: no PortGrant, or no pinnedGrants in the config of this host, gives its namespace what it asks for; only that
	// is left out.
	ReasonNotGranted = "NotGranted"
	// ReasonGrantMissing: with grants: required in the config of this host, this would be refused. Everything is in effect.
	ReasonGrantMissing = "GrantMissing"
	// ReasonNoSources: the allowed sources have none of an address's family, so no client can connect to it.
	ReasonNoSources = "NoSources"
	// ReasonServiceNotFound: the namespace has no Service of that name; connections are rejected.
	ReasonServiceNotFound = "ServiceNotFound"
	// ReasonServiceExternalName: the Service is only a name in DNS; connections are rejected.
	ReasonServiceExternalName = "ServiceExternalName"
	// ReasonServiceHeadless: the Service has no ClusterIP by its spec, and mode service needs one; connections are rejected.
	ReasonServiceHeadless = "ServiceHeadless"
	// ReasonNoClusterIP: the cluster has not given the Service a ClusterIP yet; connections are rejected.
	ReasonNoClusterIP = "NoClusterIP"
	// ReasonServicePortNotFound: the Service lacks a port or its protocol; connections to that port are rejected.
	ReasonServicePortNotFound = "ServicePortNotFound"
	// ReasonIPFamilyNotSupported: the Service lacks the address's family; connections to that address are rejected.
	ReasonIPFamilyNotSupported = "IPFamilyNotSupported"
	// ReasonServiceInvalid: the Service has a value that an API server would have rejected; the message says how it is treated.
	ReasonServiceInvalid = "ServiceInvalid"
	// ReasonAffinityIneffective: the cluster sees all clients as one and cannot keep them apart. Everything else is in effect.
	ReasonAffinityIneffective = "SessionAffinityIneffective"
	// ReasonTrafficPolicyLocal: nodes without an endpoint drop what the gateway sends them. Everything else is in effect.
	ReasonTrafficPolicyLocal = "InternalTrafficPolicyLocal"
	// ReasonEndpointSliceInvalid: an EndpointSlice has invalid values, which are left out.
	ReasonEndpointSliceInvalid = "EndpointSliceInvalid"
	// ReasonNoReadyEndpoints: connections are rejected until an endpoint is ready.
	ReasonNoReadyEndpoints = "NoReadyEndpoints"
	// ReasonAddressNotOnHost: the address is on another gateway, or on none; it is left out here.
	ReasonAddressNotOnHost = "AddressNotOnHost"
	// ReasonAddressNotServed: the host has the address, but the config does not let Mappings use it; it is left out here.
	ReasonAddressNotServed = "AddressNotServed"
	// ReasonNotAnUplink: addressesFrom names an uplink that this host does not have; another gateway may have it.
	ReasonNotAnUplink = "NotAnUplink"
	// ReasonNoUplinkAddress: the uplink currently has no address for the Mapping.
	ReasonNoUplinkAddress = "NoUplinkAddress"
	// ReasonTooManyAddresses: uplinks have more addresses than a Mapping may have; only the excess is left out.
	ReasonTooManyAddresses = "TooManyAddresses"
	// ReasonPortReserved: the host or a program on it uses the port; only this port is left out here.
	ReasonPortReserved = "PortReserved"
	// ReasonTooExpensive: it needs more rules than the config of this host allows; the whole Mapping is left out.
	ReasonTooExpensive = "TooExpensive"
	// ReasonEndpointNotAllowed: the address may not be a destination, or is not proven to belong to a pod of the namespace;
	// only this endpoint is left out.
	ReasonEndpointNotAllowed = "EndpointNotAllowed"
	// ReasonClusterIPNotAllowed: the ClusterIP may not be a destination, or is not proven to lead to pods of the namespace only;
	// connections are rejected.
	ReasonClusterIPNotAllowed = "ClusterIPNotAllowed"
	// ReasonRoutedOutside: this host routes endpoints or a ClusterIP out of a link to the outside instead of inside.
	ReasonRoutedOutside = "RoutedOutside"
	// ReasonResolvedToEndpoints: this gateway is a node, where mode service leads straight to the endpoints. Everything is in
	// effect.
	ReasonResolvedToEndpoints = "ResolvedToEndpoints"
	// ReasonIPv6Disabled: the config turns IPv6 off; the address is left out here.
	ReasonIPv6Disabled = "IPv6Disabled"
	// ReasonSCTPNotSupported: the kernel of this host cannot translate SCTP; the port is left out here.
	ReasonSCTPNotSupported = "SCTPNotSupported"
	// ReasonRuleRefused: iptables or the kernel of this host rejected one of its rules when programming it. The previous rules
	// of the family stay as far as it still asks for them.
	ReasonRuleRefused = "RuleRefused"
	// ReasonMasqueradeIgnored: masquerade: false has no effect in service mode, because the cluster hides the clients'
	// addresses from pods.
	ReasonMasqueradeIgnored = "MasqueradeIgnored"
	// ReasonRemoteMasqueraded: this gateway is a node, and masquerade: false keeps the clients' addresses only for pods of this node.
	// Everything is forwarded.
	ReasonRemoteMasqueraded = "RemoteMasqueraded"
	// ReasonSourcePortsLow: source ports for masqueraded connections to a backend run out. Everything is still forwarded.
	ReasonSourcePortsLow = "SourcePortsLow"
	// ReasonNoUplink: no address is on an uplink, so pods do not leave with it.
	ReasonNoUplink = "NoUplink"
	// ReasonNoInsideLink: this host has only uplinks, and the config does not say that pods are behind one; pods do not leave
	// with the address.
	ReasonNoInsideLink = "NoInsideLink"
	// ReasonForwardingDropped: a chain of another program drops what is forwarded for Mappings, or only connections that pods
	// open with the Mapping's address. The message has the command that helps.
	ReasonForwardingDropped = "ForwardingDropped"
	// ReasonEgressConflict: an older Mapping determines the address with which the pods leave.
	ReasonEgressConflict = "EgressConflict"
)

// RefusalReasons returns the reasons of Refused.
func RefusalReasons() []string {
	return []string{
		ReasonAddressNotServed, ReasonIPv6Disabled, ReasonInvalid, ReasonNotGranted, ReasonPortConflict, ReasonPortReserved, ReasonRuleRefused,
		ReasonSCTPNotSupported, ReasonTooExpensive, ReasonTooManyPorts,
	}
}

// The reasons of Findings about the host.
const (
	// ReasonLinkNotFound: the host has no link of that name.
	ReasonLinkNotFound = "LinkNotFound"
	// ReasonLinkDown: the link is down.
	ReasonLinkDown = "LinkDown"
	// ReasonNoGateway: no gateway of an uplink is configured or found in the routes of the host.
	ReasonNoGateway = "NoGateway"
	// ReasonTooManyUplinks: the bits of the mark cannot number all uplinks.
	ReasonTooManyUplinks = "TooManyUplinks"
	// ReasonLinkIsPort: an uplink is a port of a bridge or bond, which becomes the uplink instead.
	ReasonLinkIsPort = "LinkIsPort"
	// ReasonLinkOutside: a link that is no uplink counts as outside.
	ReasonLinkOutside = "LinkOutside"
	// ReasonPacketsQueued: a rule of another program hands packets to a program, so established connections do not bypass the rules.
	ReasonPacketsQueued = "PacketsQueued"
	// ReasonHelperWithoutNAT: the kernel's module that translates what a helper reads is not loaded, so clients are sent to addresses of pods.
	ReasonHelperWithoutNAT = "HelperWithoutNAT"
	// ReasonSwitchedFrames: netfilter sees frames that bridges switch, and rules cannot tell them from routed packets.
	ReasonSwitchedFrames = "SwitchedFramesFiltered"
	// ReasonNoMasqueradeLink: a masquerade address is in no network into which connections are masqueraded; it has no effect.
	ReasonNoMasqueradeLink = "NoMasqueradeLink"
	// ReasonNextHopUnreachable: a next hop of serviceRoutes does not answer.
	ReasonNextHopUnreachable = "NextHopUnreachable"
	// ReasonClusterCutOff: pods or nodes are behind an uplink, and insideNetworks lacks them.
	ReasonClusterCutOff = "ClusterCutOff"
)

// Blocks reports whether the finding means that some connections for the Mapping are not forwarded. Unknown reasons count as
// blocking.
func (f Finding) Blocks() bool {
	switch f.Reason {
	case ReasonServiceInvalid, ReasonEndpointSliceInvalid, ReasonNoUplink, ReasonEgressConflict, ReasonMasqueradeIgnored,
		ReasonAffinityIneffective, ReasonTrafficPolicyLocal, ReasonNoInsideLink, ReasonEndpointNotAllowed, ReasonSourcePortsLow, ReasonForwardingDropped,
		ReasonResolvedToEndpoints, ReasonRemoteMasqueraded, ReasonGrantMissing:
		return false
	}
	return f.Name != "" && !f.Elsewhere()
}

// Elsewhere reports whether the finding is about an address or uplink that this host does not have. It most likely belongs to
// another gateway, so it is no reason for a warning here; the status of the Mapping says whether any gateway has it.
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
