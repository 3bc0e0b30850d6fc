package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Mode says who balances the connections of a Mapping over the endpoints of its Service.
type Mode string

const (
	// ModeService translates to the Service's ClusterIP: the cluster balances.
	ModeService Mode = "service"
	// ModeEndpoints translates straight to the ready endpoints: smartnatd balances.
	ModeEndpoints Mode = "endpoints"
)

// Protocol is a transport protocol, in any case: "tcp", "TCP" and "Tcp" mean the same.
type Protocol string

// The protocols, as defaulting writes them.
const (
	ProtocolTCP  Protocol = "tcp"
	ProtocolUDP  Protocol = "udp"
	ProtocolSCTP Protocol = "sctp"
)

// Conditions of a Mapping.
const (
	// ConditionAccepted is true when the Mapping is valid and has all its ports for itself.
	ConditionAccepted = "Accepted"
	// ConditionResolvedRefs is true when its Service exists and has the ports that it names.
	ConditionResolvedRefs = "ResolvedRefs"
	// ConditionProgrammed is true when every gateway that holds one of its addresses forwards for it.
	ConditionProgrammed = "Programmed"
)

// +genclient
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
type MappingSpec struct {
	// addresses are the external addresses, IPv4 or IPv6, that the ports are exposed on.
	Addresses []string `json:"addresses"`
	// allowedSources are the CIDRs that may connect; empty means everyone.
	// +optional
	AllowedSources []string `json:"allowedSources,omitempty"`
	// serviceName names the Service, in the Mapping's namespace.
	ServiceName string `json:"serviceName"`
	// mode "service" translates to the ClusterIP and lets the cluster balance, "endpoints" translates straight to the
	// ready endpoints.
	// +optional
	Mode Mode `json:"mode,omitempty"`
	// ports are the external ports and the ports of the Service that they lead to.
	Ports []MappingPort `json:"ports"`
}

// MappingPort is an external port, or a range of them, and where it leads.
type MappingPort struct {
	// port is the external port, or the first one of a range.
	Port int32 `json:"port"`
	// endPort is the last external port of a range; endpoints mode only.
	// +optional
	EndPort *int32 `json:"endPort,omitempty"`
	// servicePort is the port of the Service; it defaults to port.
	// +optional
	ServicePort int32 `json:"servicePort,omitempty"`
	// protocol is tcp, udp or sctp, in any case; it defaults to tcp.
	// +optional
	Protocol Protocol `json:"protocol,omitempty"`
}

// MappingStatus says whether the Mapping is in effect.
type MappingStatus struct {
	// conditions are Accepted, ResolvedRefs and Programmed.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// serviceVIP is the ClusterIP that the Mapping leads to.
	// +optional
	ServiceVIP string `json:"serviceVIP,omitempty"`
	// instances are the gateways that forward for the Mapping.
	// +optional
	// +listType=map
	// +listMapKey=name
	Instances []InstanceStatus `json:"instances,omitempty"`
}

// InstanceStatus is what one smartnatd has in effect of a Mapping.
type InstanceStatus struct {
	// name is the gateway's instance name.
	Name string `json:"name"`
	// addresses are those of the Mapping's addresses that this gateway serves.
	// +optional
	// +listType=set
	Addresses []string `json:"addresses,omitempty"`
	// endpoints is the number of endpoints that it balances over; 0 in service mode.
	// +optional
	Endpoints int32 `json:"endpoints,omitempty"`
	// observedGeneration is the generation of the Mapping that it has programmed.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// MappingList is a list of Mappings.
type MappingList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Mapping `json:"items"`
}
