// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Mode says who balances the connections of a Mapping over the endpoints of its Service.
// +kubebuilder:validation:Enum=service;endpoints
type Mode string

const (
	// ModeService translates to the Service's ClusterIP: the cluster balances.
	ModeService Mode = "service"
	// ModeEndpoints translates straight to the ready endpoints: smartnatd balances.
	ModeEndpoints Mode = "endpoints"
)

// Protocol is a transport protocol, in any case: "tcp", "TCP" and "Tcp" mean the same.
// +kubebuilder:validation:MaxLength=4
// +kubebuilder:validation:XValidation:rule="self.lowerAscii() in ['tcp', 'udp', 'sctp']",message="must be tcp, udp or sctp"
type Protocol string

// The protocols, as defaulting writes them.
const (
	ProtocolTCP  Protocol = "tcp"
	ProtocolUDP  Protocol = "udp"
	ProtocolSCTP Protocol = "sctp"
)

// What a Mapping may hold at most. The limit on ports is what the API server can still check for overlaps; those who need
// more ports take a range or several Mappings.
const (
	MaxAddresses      = 64
	MaxAllowedSources = 10000
	MaxPorts          = 256
)

// What the status of a Mapping holds at most of one gateway.
const (
	MaxProblems      = 16
	MaxProblemLength = 512
	MaxReasonLength  = 64
)

// Field managers of the status: the conditions have one, whoever writes them, as all of SmartNat's programs come to the same
// ones; the entry of each gateway has one of its own, of this prefix and the name of the instance.
const (
	ConditionsFieldManager     = "smartnat"
	InstanceFieldManagerPrefix = "smartnatd-"
)

// The Lease of a gateway says when it was last heard of. Its name is this prefix and the name of the instance.
const (
	LeaseNamePrefix = "smartnatd-"
	LeaseLabel      = "app.kubernetes.io/name"
	LeaseLabelValue = "smartnatd"
)

// InstanceExtra is the extra of a SelfSubjectReview by which a relay tells a gateway the name of its instance.
const InstanceExtra = "smartnat.aureacentral.com/instance"

// GatewayProfile is the profile of media types ("application/json;profile=gateway") by which a gateway asks a relay for what it
// needs of objects and no more. Other servers ignore it.
const GatewayProfile = "gateway"

// Conditions of a Mapping.
const (
	// ConditionAccepted is true when the Mapping is valid and has all its ports for itself.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs is true when its Service exists and has the ports that it names.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionProgrammed is true when every gateway that holds one of its addresses forwards for it.
	ConditionProgrammed = "Programmed"
	// ConditionReady is true when connections to all addresses and ports of the Mapping are forwarded. It sums up the others.
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

	// spec says what is exposed, where, and to whom.
	// +required
	Spec MappingSpec `json:"spec"`
	// status is written by SmartNat.
	// +optional
	Status MappingStatus `json:"status,omitempty"`
}

// MappingSpec says what is exposed, where, and to whom.
// +kubebuilder:validation:XValidation:rule="(has(self.mode) && self.mode == 'endpoints') || self.ports.all(p, !has(p.endPort))",fieldPath=".ports",message="endPort needs mode endpoints"
type MappingSpec struct {
	// addresses are the external addresses, IPv4 or IPv6, that the ports are exposed on.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:items:XValidation:rule="isIP(self)",message="must be an IP address such as 192.0.2.10 or 2001:db8::10, without zone and not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isIP(self) || ip(self).isGlobalUnicast()",message="must be a unicast address that others can reach: not unspecified, loopback, link-local, multicast or broadcast"
	// +kubebuilder:validation:XValidation:rule="self.all(a, !isIP(a) || self.exists_one(b, isIP(b) && ip(a) == ip(b)))",message="must not hold an address twice, in whatever spelling"
	Addresses []string `json:"addresses"`
	// allowedSources are the CIDRs that may connect; empty means everyone.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=10000
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a network in CIDR notation such as 10.0.0.0/16 or 2001:db8::/32, not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="must not have bits set beyond its prefix length"
	AllowedSources []string `json:"allowedSources,omitempty"`
	// serviceName names the Service, in the Mapping's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a Service: lower case letters, digits and '-', beginning and ending with a letter or digit"
	ServiceName string `json:"serviceName"`
	// mode "service" translates to the ClusterIP and lets the cluster balance, "endpoints" translates straight to the
	// ready endpoints, over which the gateway balances; the Service's sessionAffinity holds there too. Traffic policies and
	// topology hints do not, as a gateway is in no zone and on no node.
	// +optional
	// +kubebuilder:default=service
	Mode Mode `json:"mode,omitempty"`
	// masquerade hides the clients' addresses from the pods behind the gateway's. False keeps them, for pods whose answers
	// are routed back through the gateway; in mode service pods see none. It defaults to what the config of each gateway says.
	// +optional
	Masquerade *bool `json:"masquerade,omitempty"`
	// egress lets connections that the Service's pods open through a gateway leave with the first of the addresses of their
	// family that the gateway has on an uplink, by that uplink. A pod of several such Mappings leaves as the oldest one says.
	// +optional
	Egress bool `json:"egress,omitempty"`
	// ports are the external ports and the ports of the Service that they lead to.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:XValidation:rule="self.all(p, self.exists_one(q, p.port <= (has(q.endPort) && q.endPort > q.port ? q.endPort : q.port) && q.port <= (has(p.endPort) && p.endPort > p.port ? p.endPort : p.port) && (has(p.protocol) ? p.protocol.lowerAscii() : 'tcp') == (has(q.protocol) ? q.protocol.lowerAscii() : 'tcp')))",message="must not expose a port of the same protocol twice, also not by ranges that overlap"
	Ports []MappingPort `json:"ports"`
}

// MappingPort is an external port, or a range of them, and where it leads.
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || self.endPort >= self.port",fieldPath=".endPort",message="must not be below port"
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || !has(self.servicePort) || self.servicePort + self.endPort - self.port <= 65535",fieldPath=".servicePort",message="must leave room for the whole range: servicePort + endPort - port must not be above 65535"
type MappingPort struct {
	// port is the external port, or the first one of a range.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// endPort is the last external port of a range; endpoints mode only.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	EndPort *int32 `json:"endPort,omitempty"`
	// servicePort is the number of the port of the Service, not its name; it defaults to port.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ServicePort int32 `json:"servicePort,omitempty"`
	// protocol is tcp, udp or sctp, in any case; it defaults to tcp.
	// +optional
	// +kubebuilder:default=tcp
	Protocol Protocol `json:"protocol,omitempty"`
}

// MappingStatus says whether the Mapping is in effect.
type MappingStatus struct {
	// conditions are Accepted, ResolvedRefs, Programmed and their sum, Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// addresses are the external addresses on one line, for people: columns of kubectl cannot print a list.
	// +optional
	Addresses string `json:"addresses,omitempty"`
	// ports are the ports on one line, for people: "8080/tcp, 8081->8080/udp". The first few, where there are many.
	// +optional
	Ports string `json:"ports,omitempty"`
	// endpoints is the largest number of endpoints that a gateway balances over; none in service mode.
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

// InstanceStatus is what one smartnatd has in effect of a Mapping.
type InstanceStatus struct {
	// name is the gateway's instance name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// addresses are those of the Mapping's addresses that this gateway serves.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Addresses []string `json:"addresses,omitempty"`
	// endpoints is the number of endpoints that it balances over; 0 in service mode.
	// +optional
	Endpoints int32 `json:"endpoints,omitempty"`
	// observedGeneration is the generation of the Mapping that this entry is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// programmed is whether the gateway forwards for all that it serves of the Mapping.
	// +optional
	Programmed bool `json:"programmed"`
	// ready is whether connections to all that the gateway serves of the Mapping are forwarded. A gateway may have programmed
	// that they are refused, as for a Service without endpoints.
	// +optional
	Ready bool `json:"ready"`
	// reason is why the gateway is not ready, for programs; none when it is.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z]+$`
	Reason string `json:"reason,omitempty"`
	// problems are what keeps it from that, and what a person may not have meant.
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
