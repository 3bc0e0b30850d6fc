// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Mode selects the component that balances connections over the endpoints of a Service.
// +kubebuilder:validation:Enum=service;endpoints
type Mode string

const (
	// ModeService translates to the Service's ClusterIP; the cluster balances.
	ModeService Mode = "service"
	// ModeEndpoints translates directly to the ready endpoints; smartnatd balances.
	ModeEndpoints Mode = "endpoints"
)

// Protocol is a transport protocol, case-insensitive.
// +kubebuilder:validation:MaxLength=4
// +kubebuilder:validation:XValidation:rule="self.lowerAscii() in ['tcp', 'udp', 'sctp']",message="must be tcp, udp or sctp"
type Protocol string

// Protocols, in the spelling of SetDefaults.
const (
	ProtocolTCP  Protocol = "tcp"
	ProtocolUDP  Protocol = "udp"
	ProtocolSCTP Protocol = "sctp"
)

// Limits of a Mapping. Up to MaxPorts the API server can check ports for overlaps by CEL; for more ports, use a range or
// several Mappings.
const (
	MaxAddresses      = 64
	MaxAddressesFrom  = 16
	MaxAllowedSources = 10000
	MaxPorts          = 256
)

// Limits of a gateway's entry in the status of a Mapping.
const (
	MaxProblems      = 16
	MaxProblemLength = 512
	MaxReasonLength  = 64
)

// Field managers of the status. All programs that write conditions use the same manager, because they decide the same
// ones. Each gateway's entry has its own manager: the prefix and the name of the instance.
const (
	ConditionsFieldManager     = "smartnat"
	InstanceFieldManagerPrefix = "smartnatd-"
)

// A Lease of a gateway records its last contact. Its name is the prefix and the name of the instance.
const (
	LeaseNamePrefix = "smartnatd-"
	LeaseLabel      = "app.kubernetes.io/name"
	LeaseLabelValue = "smartnatd"
)

// AddressesAnnotation of a gateway's ServiceAccount lists the external addresses that it is enrolled for (validation.ParseEnrolled).
// A relay shows it nothing of other addresses. Without the annotation, it shows the gateway all addresses.
const AddressesAnnotation = "smartnat.aureacentral.com/addresses"

// NodeAnnotation of a gateway's ServiceAccount names the node of the cluster that the gateway is. A relay tells it which node each endpoint
// is on. Other gateways have no such annotation.
const NodeAnnotation = "smartnat.aureacentral.com/node"

// EnrollmentAnnotation of a gateway's ServiceAccount is the UID of the Secret to which the gateway's tokens are bound. A relay refuses other
// tokens of it. Without the annotation, as an enrollment by an earlier version leaves it, a relay takes all.
const EnrollmentAnnotation = "smartnat.aureacentral.com/enrollment"

// InstanceExtra is the key of the extra field in a SelfSubjectReview that holds the instance name of a gateway. A relay
// sets it.
const InstanceExtra = "smartnat.aureacentral.com/instance"

// GatewayProfile is the media type profile ("application/json;profile=gateway") by which a gateway asks a relay for only
// the fields that it needs. Other servers ignore it.
const GatewayProfile = "gateway"

// Conditions of a Mapping.
const (
	// ConditionAccepted is true if the Mapping is valid and no other Mapping has any of its ports.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs is true if the Service exists and has the ports that the Mapping names.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionProgrammed is true if every gateway that holds one of the addresses forwards for the Mapping.
	ConditionProgrammed = "Programmed"
	// ConditionReady is true if connections to all addresses and ports are forwarded. It combines the other conditions.
	ConditionReady = "Ready"
)

// +genclient
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=mappings,singular=mapping,shortName=smap,categories=smartnat
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.status.addresses`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.serviceName`
// +kubebuilder:printcolumn:name="Ports",type=string,JSONPath=`.status.ports`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`,priority=1
// +kubebuilder:printcolumn:name="Endpoints",type=integer,JSONPath=`.status.endpoints`,priority=1
// +kubebuilder:printcolumn:name="Gateways",type=string,JSONPath=`.status.gateways`,priority=1
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Mapping exposes ports of a Service on external addresses of a gateway host.
type Mapping struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec defines what is exposed, where, and to which clients.
	// +required
	Spec MappingSpec `json:"spec"`
	// status is written by SmartNat.
	// +optional
	Status MappingStatus `json:"status,omitempty"`
}

// AllUplinks in place of the name of an uplink means all uplinks of a gateway.
const AllUplinks = "*"

// MappingSpec defines what is exposed, where, and to which clients.
// +kubebuilder:validation:XValidation:rule="(has(self.addresses) && size(self.addresses) > 0) || (has(self.addressesFrom) && size(self.addressesFrom) > 0)",fieldPath=".addresses",message="must hold at least one IPv4 or IPv6 address, or addressesFrom must name an uplink"
// +kubebuilder:validation:XValidation:rule="(has(self.mode) && self.mode == 'endpoints') || self.ports.all(p, !has(p.endPort))",fieldPath=".ports",message="endPort needs mode endpoints"
type MappingSpec struct {
	// addresses are the external addresses, IPv4 or IPv6, that the ports are exposed on. Either these or addressesFrom must be set.
	// A gateway serves those that its uplinks hold, or that its config lists as standbyAddresses or servedAddresses, and leaves
	// the others to other gateways.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="must be an IP address such as 192.0.2.10 or 2001:db8::10, without zone and not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast()",message="must be a unicast address that others can reach: not unspecified, loopback, link-local, multicast or broadcast"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isIP(a) || self.exists_one(b, isIP(b) && ip(a) == ip(b)))",message="must not hold an address twice, in whatever spelling"
	Addresses []string `json:"addresses,omitempty"`
	// addressesFrom exposes the ports also on the current addresses of uplinks, for addresses that change, for example by
	// DHCP, PPPoE or SLAAC. The status shows these addresses.
	// +optional
	// +listType=map
	// +listMapKey=uplink
	// +kubebuilder:validation:MaxItems=16
	AddressesFrom []AddressSource `json:"addressesFrom,omitempty"`
	// allowedSources are the CIDRs of clients that may connect; empty allows all. Packets from other sources are dropped
	// without an answer.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a network in CIDR notation such as 10.0.0.0/16 or 2001:db8::/32, not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="must not have bits set beyond its prefix length"
	AllowedSources []string `json:"allowedSources,omitempty"`
	// serviceName is the name of a Service in the Mapping's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a Service: lower case letters, digits and '-', beginning and ending with a letter or digit"
	ServiceName string `json:"serviceName"`
	// mode "service" translates to the ClusterIP, and the cluster balances. "endpoints" translates directly to the ready
	// endpoints; the gateway balances and applies the Service's sessionAffinity, but not traffic policies and topology
	// hints, because a gateway is in no zone and on no node.
	// +optional
	// +kubebuilder:default=service
	Mode Mode `json:"mode,omitempty"`
	// masquerade replaces the clients' addresses by one of the gateway's. False keeps them, and needs pods whose replies
	// are routed through the gateway; in mode service, pods do not see them anyway. It defaults to the config of each
	// gateway.
	// +optional
	Masquerade *bool `json:"masquerade,omitempty"`
	// egress sends connections that the Service's pods open through a gateway from the Mapping's address: the first one of
	// their family that the gateway has on an uplink, through that uplink. If a pod has several such Mappings, the oldest
	// one applies. The pods must be behind a link that is not an uplink, or in a network that insideNetworks in the
	// gateway's config lists; pods in a network that the gateway itself is in also need it in backendNetworks.
	// +optional
	Egress bool `json:"egress,omitempty"`
	// ports are the external ports, and the ports of the Service that they lead to.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.all(p, self.exists_one(q, p.port <= (has(q.endPort) && q.endPort > q.port ? q.endPort : q.port) && q.port <= (has(p.endPort) && p.endPort > p.port ? p.endPort : p.port) && (has(p.protocol) ? p.protocol.lowerAscii() : 'tcp') == (has(q.protocol) ? q.protocol.lowerAscii() : 'tcp')))",message="must not expose a port of the same protocol twice, also not by ranges that overlap"
	Ports []MappingPort `json:"ports"`
}

// AddressSource is a source of external addresses.
type AddressSource struct {
	// uplink is the name of a link that the config of a gateway lists under uplinks, or "*" for all of these. The gateway
	// serves its addresses, except for link-local, temporary (RFC 8981), tentative and deprecated ones, and those of a
	// family that the Service or allowedSources do not have. A gateway without such an uplink serves none of them.
	// +required
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="self.matches('^([*]|[!-)+-.0-9;-~]{1,15})$') && self != '.' && self != '..'",message="must be the name of a link such as eth1, or * for all uplinks; a name has at most 15 ASCII characters, none of them a blank, '/', ':' or '*'"
	Uplink string `json:"uplink"`
}

// MappingPort is an external port, or a range of them, and the port of the Service that it leads to.
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || self.endPort >= self.port",fieldPath=".endPort",message="must not be below port"
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || !has(self.servicePort) || self.servicePort + self.endPort - self.port <= 65535",fieldPath=".servicePort",message="must leave room for the whole range: servicePort + endPort - port must not be above 65535"
type MappingPort struct {
	// port is the external port, or the first one of a range.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// endPort is the last external port of a range that leads straight to the pods; mode endpoints only.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	EndPort *int32 `json:"endPort,omitempty"`
	// servicePort is the number, not the name, of the Service's port; it defaults to port.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ServicePort int32 `json:"servicePort,omitempty"`
	// protocol is tcp, udp or sctp, case-insensitive; it defaults to tcp.
	// +optional
	// +kubebuilder:default=tcp
	Protocol Protocol `json:"protocol,omitempty"`
}

// MappingStatus reports whether the Mapping is in effect.
type MappingStatus struct {
	// conditions are Accepted, ResolvedRefs, Programmed and Ready, which combines the others.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// addresses are the external addresses on one line, for people: columns of kubectl cannot print a list. They
	// include the addresses of addressesFrom that gateways serve now.
	// +optional
	Addresses string `json:"addresses,omitempty"`
	// ports are the ports on one line, for people, such as "8080/tcp, 8081->8080/udp". A long list is cut.
	// +optional
	Ports string `json:"ports,omitempty"`
	// endpoints is the largest number of endpoints that a gateway balances over; absent in mode service.
	// +optional
	Endpoints *int32 `json:"endpoints,omitempty"`
	// gateways are the names of the gateways that forward connections, on one line, for people.
	// +optional
	Gateways string `json:"gateways,omitempty"`
	// serviceVIP is the ClusterIP that the Mapping leads to.
	// +optional
	ServiceVIP string `json:"serviceVIP,omitempty"`
	// instances are the gateways that forward for the Mapping.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Instances []InstanceStatus `json:"instances,omitempty"`
}

// InstanceStatus is the state of a Mapping on one gateway.
type InstanceStatus struct {
	// name is the instance name of the gateway.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// addresses are the addresses of the Mapping, including those of addressesFrom, that this gateway serves.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Addresses []string `json:"addresses,omitempty"`
	// uplinks are the uplinks of the Mapping's addressesFrom with an address that this gateway serves.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Uplinks []string `json:"uplinks,omitempty"`
	// endpoints is the number of endpoints that the gateway balances over; 0 in mode service.
	// +optional
	Endpoints int32 `json:"endpoints,omitempty"`
	// observedGeneration is the generation of the Mapping that this entry describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// programmed reports whether the gateway has programmed everything that it serves of the Mapping.
	// +optional
	Programmed bool `json:"programmed"`
	// ready reports whether the gateway forwards all connections that it serves. A gateway may have programmed a
	// rejection, for example for a Service without endpoints.
	// +optional
	Ready bool `json:"ready"`
	// reason is a CamelCase word that says why the gateway is not ready; empty if it is.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z]+$`
	Reason string `json:"reason,omitempty"`
	// problems say what keeps the gateway from being ready, and what the author may not have intended.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=512
	Problems []string `json:"problems,omitempty"`
}

// +kubebuilder:object:root=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MappingList is a list of Mappings.
type MappingList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Mapping `json:"items"`
}
