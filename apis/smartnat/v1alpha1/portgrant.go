// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Limits of a PortGrant.
const (
	MaxGrantAddresses  = 64
	MaxGrantPorts      = 64
	MaxGrantNamespaces = 256
	MaxGrantSources    = 256
	// MaxSelectorTerms bounds the labels, and the expressions, of a selector, and MaxSelectorValues the values of an expression.
	MaxSelectorTerms  = 16
	MaxSelectorValues = 64
)

// +genclient
// +genclient:nonNamespaced
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=portgrants,singular=portgrant,shortName=pgrant,categories=smartnat
// +kubebuilder:printcolumn:name="Addresses",type=string,JSONPath=`.spec.addresses`
// +kubebuilder:printcolumn:name="Namespaces",type=string,JSONPath=`.spec.namespaces`
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Mappings",type=integer,JSONPath=`.status.mappings`
// +kubebuilder:printcolumn:name="Ports",type=integer,JSONPath=`.status.ports`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Sources",type=string,JSONPath=`.spec.allowedSources`,priority=1
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.namespaces`,priority=1
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// PortGrant gives ports of external addresses to namespaces. As soon as one PortGrant covers an address, only Mappings of granted
// namespaces may use it. Several PortGrants for an address add up.
type PortGrant struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec defines what is granted, and to which namespaces.
	// +required
	Spec PortGrantSpec `json:"spec"`
	// status is written by smartnat-relay.
	// +optional
	Status PortGrantStatus `json:"status,omitzero"`
}

// PortGrantStatus says whether the PortGrant is valid, and what it is used for in the whole cluster.
type PortGrantStatus struct {
	// conditions is Accepted: true if the PortGrant is valid. One that is not grants nothing, and still keeps its addresses from all.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// namespaces is the number of namespaces that exist and are selected.
	// +optional
	Namespaces *int32 `json:"namespaces,omitempty"`
	// mappings is the number of Mappings that have ports by this PortGrant.
	// +optional
	Mappings *int32 `json:"mappings,omitempty"`
	// ports is the number of ports that Mappings have by this PortGrant, on all addresses together. Addresses of uplinks
	// (addressesFrom) are not counted, because only gateways know these.
	// +optional
	Ports *int32 `json:"ports,omitempty"`
}

// PortGrantSpec defines what is granted, and to which namespaces.
// +kubebuilder:validation:XValidation:rule="has(self.namespaceSelector) || (has(self.namespaces) && size(self.namespaces) > 0)",fieldPath=".namespaces",message="must hold at least one namespace, or namespaceSelector must select them ({} selects all)"
type PortGrantSpec struct {
	// addresses are external addresses, or networks of them in CIDR notation.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isIP(self) || isCIDR(self)",message="must be an IP address such as 192.0.2.10, or a network in CIDR notation such as 192.0.2.0/24 or 2001:db8::/64, not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="must not have bits set beyond its prefix length"
	Addresses []string `json:"addresses"`
	// ports are the granted ports; empty grants all ports of all protocols. A port or range of a Mapping must lie within one of
	// them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Ports []GrantedPorts `json:"ports,omitempty"`
	// namespaces are the names of the namespaces whose Mappings may use the ports.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="must be the name of a namespace: lower case letters, digits and '-', beginning and ending with a letter or digit"
	Namespaces []string `json:"namespaces,omitempty"`
	// namespaceSelector selects further namespaces by their labels. An empty selector, {}, selects all.
	// +optional
	// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) <= 16) && (!has(self.matchExpressions) || (size(self.matchExpressions) <= 16 && self.matchExpressions.all(e, !has(e.values) || size(e.values) <= 64)))",message="must have at most 16 labels and 16 expressions of 64 values"
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// allowedSources are the widest networks that a Mapping may let in: each of its own allowedSources must lie within one of
	// them. Empty grants all, including a Mapping without allowedSources.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a network in CIDR notation such as 10.0.0.0/16 or 2001:db8::/32, not IPv4-mapped"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="must not have bits set beyond its prefix length"
	AllowedSources []string `json:"allowedSources,omitempty"`
	// maxPorts is the number of ports that each namespace may use by this grant, on all addresses together; every port of a range
	// counts. If it is too small, older Mappings come first. 0 means no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=16777216
	MaxPorts int32 `json:"maxPorts,omitempty"`
	// egress also grants that pods leave with the addresses.
	// +optional
	Egress bool `json:"egress,omitempty"`
	// endpointsWithoutSelector also grants Services without a selector, whose endpoints may be any address within the gateway's
	// backendNetworks. The gateway's config can grant that to all.
	// +optional
	EndpointsWithoutSelector bool `json:"endpointsWithoutSelector,omitempty"`
	// reservedPorts also grants ports that reservedPorts in a gateway's config keeps from Mappings, if pinnedGrants there do so too.
	// +optional
	ReservedPorts bool `json:"reservedPorts,omitempty"`
	// priority decides between Mappings that ask for the same port: the one whose grant has the higher priority gets it, and the
	// older one if both are equal.
	// +optional
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	Priority int32 `json:"priority,omitempty"`
}

// GrantedPorts are a port or a range of ports.
// +kubebuilder:validation:XValidation:rule="!has(self.endPort) || self.endPort >= self.port",fieldPath=".endPort",message="must not be below port"
type GrantedPorts struct {
	// port is the port, or the first one of a range.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// endPort is the last port of a range.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	EndPort *int32 `json:"endPort,omitempty"`
	// protocol is tcp, udp or sctp, case-insensitive; without it, the ports of all protocols are granted.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// +kubebuilder:object:root=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// PortGrantList is a list of PortGrants.
type PortGrantList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []PortGrant `json:"items"`
}
