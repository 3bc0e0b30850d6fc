// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Config is a validated /etc/smartnat.yaml. Keys are spelled like fields with a lower-case first letter, or as the tag says.
type Config struct {
	// Instance names this gateway in the status of Mappings. The default is the name of the credential for the relay, or else
	// the host name.
	Instance string
	// InstanceFromHost is set if the config does not name the instance.
	InstanceFromHost bool `mapstructure:"-"`
	// Node is the name of this host as a node of the cluster, by which EndpointSlices say which pods are here; Instance by default.
	Node string
	// Source is where Mappings, Services and EndpointSlices come from. Exactly one of its fields is set.
	Source Source
	// Uplinks select the links to the outside.
	Uplinks []Uplink `mapstructure:"-"` // read through document
	// ServiceRoutes lead the ClusterIP range through cluster nodes.
	ServiceRoutes []gateway.ServiceRoute
	// Masquerade hides the clients' addresses from the pods unless a Mapping decides; true by default.
	Masquerade bool
	// MasqueradePorts are the source ports of masqueraded connections; 1024-65535 by default. If empty ("keep") the kernel
	// chooses: a source port below 512 stays below 512, one below 1024 stays in 600-1023, and those run out first.
	MasqueradePorts SourcePorts
	// MasqueradeAddresses replace this host's own addresses as the source of masqueraded connections, on each link in whose
	// network they are, whether the host holds them or not; none by default.
	MasqueradeAddresses []netip.Addr
	// Helpers are the external ports whose connections the kernel's helpers inspect; none by default.
	Helpers Helpers
	// ClampMSS lowers the segment size of forwarded TCP connections to that of the path; false by default.
	ClampMSS bool `mapstructure:"clampMSS"`
	// ForwardedOnly excludes connections of this host itself to external addresses, which are otherwise translated like those
	// of clients; false by default.
	ForwardedOnly bool
	// MaxPortsPerMapping bounds the ports that a Mapping may expose here, counting every port of a range; a Mapping with more
	// is skipped entirely. 0 means no limit; 32768 by default.
	MaxPortsPerMapping int
	// MaxPortsPerNamespace bounds the ports of all Mappings of a namespace; the youngest ones beyond it are skipped entirely. 0
	// means no limit; 65536 by default.
	MaxPortsPerNamespace int
	// MaxRulesPerMapping and MaxRulesPerNamespace bound the estimated number of rules: one for each port of each address, and
	// one for each endpoint of it. 0 means no limit; 32768 and 131072 by default.
	MaxRulesPerMapping, MaxRulesPerNamespace int
	// InsideNetworks are networks of the cluster behind an uplink, as on a host with one link: of nodes, pods and ClusterIPs.
	// Traffic from them is forwarded, and Mappings may lead to them through an uplink. None by default; on a node, what it
	// routes to other nodes by an uplink.
	InsideNetworks []netip.Prefix
	// StandbyAddresses are programmed even before the host holds them. The virtual addresses of HA on uplinks are among them.
	StandbyAddresses []netip.Addr
	// ServedAddresses are addresses that Mappings may use while the host holds them, in addition to standby addresses and those
	// on uplinks.
	ServedAddresses []netip.Addr
	// ReservedPorts are not available to Mappings on any address; 22/tcp and 179/tcp by default.
	ReservedPorts []ReservedPorts
	// Grants says which addresses need a PortGrant: "open", the default, those that one covers; "required", all. "report" serves what
	// "required" would refuse, and reports it.
	Grants string
	// PinnedGrants bound what the source of objects may ask for; no bounds by default.
	PinnedGrants []PinnedGrant
	// BackendNetworks are the allowed destinations of connections; by default all that the host routes over links other than
	// uplinks, and the destinations of ServiceRoutes.
	BackendNetworks []netip.Prefix
	// EndpointsWithoutSelector allows the endpoints of Services without a selector, which may be any address within
	// BackendNetworks; false by default.
	EndpointsWithoutSelector bool
	// AnyAddress treats every address of every Mapping as one of this host. `render` uses it without a config file; it has no
	// key.
	AnyAddress bool `mapstructure:"-"`
	// Resync is the interval of complete verification of the kernel's state; 5 min by default.
	Resync time.Duration
	// StartTimeout bounds how long a start or reload waits until everything is in effect. Then smartnatd becomes ready, but
	// degraded. 30 s by default.
	StartTimeout time.Duration
	// StateDir is for data that must outlive a reboot, RuntimeDir for data that must not.
	StateDir, RuntimeDir string
	// IPv6 enables the IPv6 addresses of Mappings; true by default. The boundary always covers IPv6.
	IPv6 bool `mapstructure:"ipv6"`
	// Dataplane is the kernel API that carries the rules: "nftables", "iptables", or "auto" for iptables where it works and
	// nftables elsewhere.
	Dataplane string
	// Flowtable lets established connections bypass the rules where the kernel can and the data plane is nftables: "auto", the
	// default, or "off".
	Flowtable string
	// EndpointChoice is how a client gets one of several endpoints: "random", the default, or "maglev", by a hash of its address and
	// port, which all gateways compute alike. That needs the data plane nftables.
	EndpointChoice string
	// IPTables configures the iptables programs.
	IPTables IPTables `mapstructure:"iptables"`
	// Ownership names what belongs to SmartNat on the host.
	Ownership gateway.Ownership
	// Log configures logging.
	Log Log
	// Metrics configures metrics and probes.
	Metrics Metrics
	// FlowLog configures the log of connections that ended.
	FlowLog FlowLog
	// HA configures the pair that this gateway and its peer form; none by default.
	HA HA `mapstructure:"ha"`
	// Announce configures what this gateway, as one of many, announces to its router; nothing by default.
	Announce Announce
}

// Announce configures the file by which BIRD announces served addresses.
type Announce struct {
	// Networks hold the addresses that may be announced; none by default.
	Networks []netip.Prefix
	// File is what bird.conf includes; /run/smartnat-announce/bird.conf by default.
	File string
	// Socket is BIRD's control socket; /run/bird/bird.ctl by default.
	Socket string
}

// Enabled reports whether anything may be announced.
func (a Announce) Enabled() bool { return len(a.Networks) > 0 }

// FlowLog configures the log of connections that ended.
type FlowLog struct {
	// File is the path of the log; empty by default, which turns it off.
	File string
	// MaxMegabytes bounds the log on disk; 64 by default.
	MaxMegabytes int
}

// Source is where objects come from.
type Source struct {
	Relay      *Relay
	Kubeconfig *Kubeconfig
	Files      *Files
}

// Relay is a smartnat-relay with one or more replicas.
type Relay struct {
	// Servers are https URLs; if one fails, the next one is tried.
	Servers []string
	// CAFile has the certificate authority of the relay's serving certificate; the system's by default.
	CAFile string `mapstructure:"caFile"`
	// ServerName overrides the name for the verification of the serving certificate.
	ServerName string
	// TokenFile has a bearer token, and is read again when it changes. CertFile and KeyFile are a client certificate instead.
	TokenFile, CertFile, KeyFile string
}

// Kubeconfig is a cluster with direct access.
type Kubeconfig struct {
	// Path is the kubeconfig file, Context a context in it; the current one by default. Without a path, smartnatd runs in a pod and
	// uses its ServiceAccount.
	Path, Context string
}

// Files are objects on disk, for tests and for gateways without a cluster. They are read again when they change.
type Files struct {
	// Paths are YAML files or folders of them.
	Paths []string
}

// Uplink selects links by name and configures the way to the outside through them.
type Uplink struct {
	// Interface is a name ("eth1"), a glob ("eth*") or a regular expression between slashes ("/^ens[0-9]+$/").
	Interface string
	// Gateways are the next hops, at most one per family. Without one the default route of the link is used. In the file,
	// `gateway` is short for a list of one.
	Gateways []netip.Addr
	// GatewayOffset is the position of the gateway in the link's network: 1 is the first address after the network's own. 0
	// means not set.
	GatewayOffset int
}

// IPTables configures the iptables programs.
type IPTables struct {
	// Variant is "auto" (as `iptables --version` reports), "nf_tables" or "legacy".
	Variant string
	// LockTimeout is how long a call waits for the xtables lock; 5 s by default.
	LockTimeout time.Duration
}

// Metrics configures metrics and probes. They are served without TLS or authentication.
type Metrics struct {
	// Address is HOST:PORT; "127.0.0.1:9470" by default. If empty, nothing is served.
	Address string
}

// Log configures logging.
type Log struct {
	// Level is a logrus level; "info" by default.
	Level string
	// Format is "text" or "json".
	Format string
}
