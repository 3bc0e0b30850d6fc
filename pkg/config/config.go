// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Config is a validated /etc/smartnat.yaml. A key is spelled like its field, beginning in lower case, or as the tag says.
type Config struct {
	// Instance names this gateway in the status of Mappings. By default it is that of the credential for the relay, and the host
	// name where there is none.
	Instance string
	// InstanceFromHost is set where the config does not name the instance.
	InstanceFromHost bool `mapstructure:"-"`
	// Source is where Mappings, Services and EndpointSlices come from. Exactly one of its fields is set.
	Source Source
	// Uplinks choose the links to the outside.
	Uplinks []Uplink `mapstructure:"-"` // by way of document
	// ServiceRoutes lead the range of the ClusterIPs through cluster nodes.
	ServiceRoutes []gateway.ServiceRoute
	// Masquerade hides the clients' addresses from the pods, where a Mapping does not say; true by default.
	Masquerade bool
	// MasqueradePorts are the ports that masqueraded connections come from. Where it is empty ("keep") the kernel chooses: a
	// source port below 512 stays below 512, one below 1024 stays in 600-1023, and those run out first. 1024-65535 by default.
	MasqueradePorts SourcePorts
	// Helpers are the external ports whose connections the kernel's helpers read; none by default.
	Helpers Helpers
	// ClampMSS lowers the segment size of forwarded TCP connections to what the path takes; false by default.
	ClampMSS bool `mapstructure:"clampMSS"`
	// ForwardedOnly leaves alone the connections that this host itself opens to external addresses, which are translated as
	// those of clients are otherwise; false by default.
	ForwardedOnly bool
	// MaxPortsPerMapping is how many ports a Mapping may expose here, each of its ranges counted with all its ports; one
	// that has more is left out whole. 0 is no limit, 32768 the default.
	MaxPortsPerMapping int
	// MaxPortsPerNamespace is the same for all Mappings of a namespace; those beyond, the youngest, are left out whole. 0 is
	// no limit, 65536 the default.
	MaxPortsPerNamespace int
	// MaxRulesPerMapping and MaxRulesPerNamespace are how many rules they may cost, by an estimate: each port of each
	// address costs one, and one for each endpoint. 0 is no limit, 32768 and 131072 the default.
	MaxRulesPerMapping, MaxRulesPerNamespace int
	// InsideNetworks are the cluster's that lie behind an uplink, as on a host with one link: of nodes, pods and ClusterIPs. What
	// comes from them is forwarded, and Mappings may lead to them by an uplink.
	InsideNetworks []netip.Prefix
	// StandbyAddresses are programmed although the host does not hold them yet.
	StandbyAddresses []netip.Addr
	// ServedAddresses are those that Mappings may use besides standby addresses and what is on uplinks, where the host
	// holds them.
	ServedAddresses []netip.Addr
	// ReservedPorts are kept from Mappings, on all addresses; 22/tcp and 179/tcp by default.
	ReservedPorts []ReservedPorts
	// BackendNetworks are where connections may be led to; by default what the host routes over links that are no uplinks,
	// and the destinations of ServiceRoutes.
	BackendNetworks []netip.Prefix
	// EndpointsWithoutSelector takes the endpoints of Services that have no selector, which may be anything within the
	// BackendNetworks; false by default.
	EndpointsWithoutSelector bool
	// AnyAddress takes every address of every Mapping as this host's own. It is what `render` does without a
	// config file and has no key in it.
	AnyAddress bool `mapstructure:"-"`
	// Resync is how often it is found out for sure whether the kernel holds what it should; 5 min by default.
	Resync time.Duration
	// StartTimeout bounds how long a start, or a change to another config, waits until everything is in effect; after it smartnatd
	// is ready with what is known, and degraded. 30 s by default.
	StartTimeout time.Duration
	// StateDir holds what must outlive a reboot, RuntimeDir what must not.
	StateDir, RuntimeDir string
	// IPTables says how the iptables programs are called.
	IPTables IPTables `mapstructure:"iptables"`
	// Ownership names what is ours on the host.
	Ownership gateway.Ownership
	// Log says what is logged, and how.
	Log Log
	// Metrics says where metrics and probes are served.
	Metrics Metrics
}

// Source is where objects come from.
type Source struct {
	Relay      *Relay
	Kubeconfig *Kubeconfig
	Files      *Files
}

// Relay is a smartnat-relay, or several replicas of it.
type Relay struct {
	// Servers are https URLs; the next one is tried when one fails.
	Servers []string
	// CAFile is the certificate authority of the relay's serving certificate; the system's by default.
	CAFile string `mapstructure:"caFile"`
	// ServerName overrides the name that the serving certificate is checked against.
	ServerName string
	// TokenFile holds a bearer token, read again when it changes; or CertFile and KeyFile a client certificate.
	TokenFile, CertFile, KeyFile string
}

// Kubeconfig is a cluster reached directly.
type Kubeconfig struct {
	// Path of the kubeconfig file; Context within it, the current one by default.
	Path, Context string
}

// Files are objects on disk, for tests and for gateways without a cluster. They are read again when they change.
type Files struct {
	// Paths are YAML files or folders of them.
	Paths []string
}

// Uplink chooses links by name and says how the outside is reached through them.
type Uplink struct {
	// Interface is a name ("eth1"), a glob ("eth*") or a regular expression between slashes ("/^ens[0-9]+$/").
	Interface string
	// Gateways are the next hops, at most one a family; a family without one has that of the link's default route. In the
	// file `gateway` stands for a list of one.
	Gateways []netip.Addr
	// GatewayOffset is the gateway's place in the link's network: 1 is the first address after the network's own.
	// 0 means not set.
	GatewayOffset int
}

// IPTables says how the iptables programs are called.
type IPTables struct {
	// Backend is "auto" (what `iptables --version` says), "legacy" or "nft".
	Backend string
	// LockTimeout is how long a call waits for the xtables lock; 5 s by default.
	LockTimeout time.Duration
	// IPv6 is set when the IPv6 addresses of Mappings are served too; true by default. The boundary holds for IPv6 always.
	IPv6 bool `mapstructure:"ipv6"`
}

// Metrics says where metrics and probes are served, without TLS and to whoever reaches it.
type Metrics struct {
	// Address is HOST:PORT; "127.0.0.1:9470" by default, and nowhere where it is empty.
	Address string
}

// Log says what is logged, and how.
type Log struct {
	// Level is a logrus level; "info" by default.
	Level string
	// Format is "text" or "json".
	Format string
}
