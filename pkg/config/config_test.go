// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
)

var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func noEnvironment(string) string { return "" }

const whole = `
instance: gw1
node: worker-1.example.com
source:
  relay: {servers: ["https://10.10.0.11:8443"], caFile: /ca, serverName: relay, tokenFile: /token, certFile: , keyFile: }
uplinks:
- {interface: eth1, gateway: 198.51.100.1}
- {interface: eth2, gateways: [203.0.113.1, "2001:db8::1"]}
- {interface: "wan*", gatewayOffset: 1}
serviceRoutes:
- {destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}
masquerade: false
masqueradePorts: 20000-29999
masqueradeAddresses: [10.10.0.100, "fd00:10::100"]
helpers: {ftp: [21, 2121], tftp: [69]}
clampMSS: true
forwardedOnly: true
maxPortsPerMapping: 1000
maxPortsPerNamespace: 2000
maxRulesPerMapping: 3000
maxRulesPerNamespace: 4000
standbyAddresses: [198.51.100.20]
servedAddresses: [10.10.0.2]
reservedPorts: [2222/tcp, 5000-5010/udp]
backendNetworks: [10.244.0.0/16, 10.10.0.11/32]
endpointsWithoutSelector: true
resync: 1m
startTimeout: 2m
stateDir: /state
runtimeDir: /runtime
grants: required
pinnedGrants:
- {addresses: [198.51.100.0/24], ports: [443/tcp, 5000-5999/udp], namespaces: [shop], allowedSources: [203.0.113.0/24], maxPorts: 100, egress: true}
- {addresses: ["2001:db8:1::/64"], endpointsWithoutSelector: true, reservedPorts: true}
flowLog: {file: /state/flows.jsonl, maxMegabytes: 8}
ipv6: false
dataplane: nftables
flowtable: off
endpointChoice: maglev
iptables: {variant: legacy, lockTimeout: 10s}
ownership: {chainPrefix: SN-, markMask: 0x3f0, routingTable: 1000, rulePriority: 1001, routeProtocol: 84, setPrefix: sn-}
log: {level: debug, format: json}
metrics: {address: "[::1]:9471"}
announce: {networks: [203.0.113.0/28, "2001:db8:a::10/128"], file: /etc/bird/smartnat.conf, socket: /bird.ctl}
ha:
  syncLink: eth3
  syncAddress: 10.99.0.1
  peer: 10.99.0.2
  syncPort: 3781
  links:
  - {interface: eth1, virtualAddresses: [198.51.100.30, "2001:db8:1::30"], addresses: [198.51.100.11, "2001:db8:1::11"], peers: [198.51.100.12, "2001:db8:1::12"]}
  - {interface: eth0, virtualAddresses: [10.10.0.9], addresses: [10.10.0.2], peers: [10.10.0.3]}
  priority: 150
  preempt: after 1m
  advertInterval: 50ms
  virtualRouterID: 60
  hook: /etc/smartnat/ha-hook
`

func wholeConfig() Config {
	ip := netip.MustParseAddr
	return Config{
		Instance: "gw1", Node: "worker-1.example.com",
		Source: Source{Relay: &Relay{Servers: []string{"https://10.10.0.11:8443"}, CAFile: "/ca", ServerName: "relay", TokenFile: "/token"}},
		Uplinks: []Uplink{
			{Interface: "eth1", Gateways: []netip.Addr{ip("198.51.100.1")}},
			{Interface: "eth2", Gateways: []netip.Addr{ip("203.0.113.1"), ip("2001:db8::1")}},
			{Interface: "wan*", GatewayOffset: 1},
		},
		ServiceRoutes:       []gateway.ServiceRoute{{Destination: netip.MustParsePrefix("10.96.0.0/16"), Via: []netip.Addr{ip("10.10.0.11"), ip("10.10.0.12")}}},
		MasqueradePorts:     SourcePorts{gateway.PortRange{First: 20000, Last: 29999}},
		Helpers:             Helpers{FTP: []HelperPort{21, 2121}, TFTP: []HelperPort{69}},
		MasqueradeAddresses: []netip.Addr{ip("10.10.0.100"), ip("fd00:10::100"), ip("10.10.0.9")},
		ClampMSS:            true,
		ForwardedOnly:       true,
		MaxPortsPerMapping:  1000, MaxPortsPerNamespace: 2000, MaxRulesPerMapping: 3000, MaxRulesPerNamespace: 4000,
		StandbyAddresses: []netip.Addr{ip("198.51.100.20"), ip("198.51.100.30"), ip("2001:db8:1::30")},
		ServedAddresses:  []netip.Addr{ip("10.10.0.2")},
		ReservedPorts: []ReservedPorts{
			{gateway.TCP, gateway.Port(2222)}, {gateway.UDP, gateway.PortRange{First: 5000, Last: 5010}},
		},
		Grants: GrantsRequired,
		PinnedGrants: []PinnedGrant{
			{
				Addresses:  []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
				Ports:      []ReservedPorts{{gateway.TCP, gateway.Port(443)}, {gateway.UDP, gateway.PortRange{First: 5000, Last: 5999}}},
				Namespaces: []string{"shop"}, AllowedSources: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, MaxPorts: 100, Egress: true,
			},
			{Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}, EndpointsWithoutSelector: true, ReservedPorts: true},
		},
		BackendNetworks:          []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.10.0.11/32")},
		EndpointsWithoutSelector: true,

		Resync:         time.Minute,
		StartTimeout:   2 * time.Minute,
		StateDir:       "/state",
		RuntimeDir:     "/runtime",
		FlowLog:        FlowLog{File: "/state/flows.jsonl", MaxMegabytes: 8},
		Dataplane:      DataplaneNFTables,
		Flowtable:      FlowtableOff,
		EndpointChoice: ChoiceMaglev,
		IPTables:       IPTables{Variant: VariantLegacy, LockTimeout: 10 * time.Second},
		Ownership:      gateway.Ownership{ChainPrefix: "SN-", MarkMask: 0x3f0, RoutingTable: 1000, RulePriority: 1001, RouteProtocol: 84, SetPrefix: "sn-"},
		Log:            Log{Level: "debug", Format: "json"},
		Metrics:        Metrics{Address: "[::1]:9471"},
		Announce: Announce{
			Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28"), netip.MustParsePrefix("2001:db8:a::10/128")},
			File:     "/etc/bird/smartnat.conf", Socket: "/bird.ctl",
		},
		HA: HA{
			SyncLink: "eth3", SyncAddress: ip("10.99.0.1"), Peer: ip("10.99.0.2"), SyncPort: 3781,
			Links: []HALink{
				{"eth1", []netip.Addr{ip("198.51.100.30"), ip("2001:db8:1::30")}, []netip.Addr{ip("198.51.100.11"), ip("2001:db8:1::11")}, []netip.Addr{ip("198.51.100.12"), ip("2001:db8:1::12")}},
				{"eth0", []netip.Addr{ip("10.10.0.9")}, []netip.Addr{ip("10.10.0.2")}, []netip.Addr{ip("10.10.0.3")}},
			},
			Priority: 150, Preempt: Preempt{time.Minute}, AdvertInterval: 50 * time.Millisecond, VirtualRouterID: 60, Hook: "/etc/smartnat/ha-hook",
		},
	}
}

func TestEveryKeyOfTheFile(t *testing.T) {
	got, err := parse("f", []byte(whole), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wholeConfig(), got, addresses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEnvironmentGoesBeforeTheFile sets every key by a variable, over a file with other values.
func TestEnvironmentGoesBeforeTheFile(t *testing.T) {
	environment := map[string]string{
		"SMARTNAT_INSTANCE":                "gw1",
		"SMARTNAT_NODE":                    "worker-1.example.com",
		"SMARTNAT_SOURCE_RELAY_SERVERS":    "https://10.10.0.11:8443",
		"SMARTNAT_SOURCE_RELAY_CAFILE":     "/ca",
		"SMARTNAT_SOURCE_RELAY_SERVERNAME": "relay",
		"SMARTNAT_SOURCE_RELAY_TOKENFILE":  "/token",
		"SMARTNAT_UPLINKS": `[{interface: eth1, gateway: 198.51.100.1}, {interface: eth2, gateways: [203.0.113.1, "2001:db8::1"]},
			{interface: "wan*", gatewayOffset: 1}]`,
		"SMARTNAT_SERVICEROUTES":       "[{destination: 10.96.0.0/16, via: [10.10.0.11, 10.10.0.12]}]",
		"SMARTNAT_MASQUERADE":          "false",
		"SMARTNAT_MASQUERADEPORTS":     "20000-29999",
		"SMARTNAT_MASQUERADEADDRESSES": "10.10.0.100, fd00:10::100",
		"SMARTNAT_HELPERS_FTP":         "21,2121", "SMARTNAT_HELPERS_TFTP": "69",
		"SMARTNAT_CLAMPMSS":           "true",
		"SMARTNAT_FORWARDEDONLY":      "true",
		"SMARTNAT_MAXPORTSPERMAPPING": "1000",
		"SMARTNAT_STANDBYADDRESSES":   "198.51.100.20",
		"SMARTNAT_SERVEDADDRESSES":    "10.10.0.2",
		"SMARTNAT_RESERVEDPORTS":      "2222/tcp, 5000-5010/UDP",
		"SMARTNAT_GRANTS":             "required",
		"SMARTNAT_PINNEDGRANTS": `[{addresses: [198.51.100.0/24], ports: [443/tcp, 5000-5999/udp], namespaces: [shop], allowedSources: [203.0.113.0/24], maxPorts: 100, egress: true},
			{addresses: ["2001:db8:1::/64"], endpointsWithoutSelector: true, reservedPorts: true}]`,
		"SMARTNAT_BACKENDNETWORKS":          "10.244.0.0/16, 10.10.0.11/32",
		"SMARTNAT_ENDPOINTSWITHOUTSELECTOR": "true",
		"SMARTNAT_MAXPORTSPERNAMESPACE":     "2000",
		"SMARTNAT_MAXRULESPERMAPPING":       "3000",
		"SMARTNAT_MAXRULESPERNAMESPACE":     "4000",
		"SMARTNAT_RESYNC":                   "1m",
		"SMARTNAT_STARTTIMEOUT":             "2m",
		"SMARTNAT_STATEDIR":                 "/state",
		"SMARTNAT_RUNTIMEDIR":               "/runtime",
		"SMARTNAT_DATAPLANE":                "nftables",
		"SMARTNAT_FLOWTABLE":                "off",
		"SMARTNAT_ENDPOINTCHOICE":           "maglev",
		"SMARTNAT_IPTABLES_VARIANT":         "legacy",
		"SMARTNAT_IPTABLES_LOCKTIMEOUT":     "10s",
		"SMARTNAT_IPV6":                     "false",
		"SMARTNAT_OWNERSHIP_CHAINPREFIX":    "SN-",
		"SMARTNAT_OWNERSHIP_MARKMASK":       "0x3f0",
		"SMARTNAT_OWNERSHIP_ROUTINGTABLE":   "1000",
		"SMARTNAT_OWNERSHIP_RULEPRIORITY":   "1001",
		"SMARTNAT_OWNERSHIP_ROUTEPROTOCOL":  "84",
		"SMARTNAT_OWNERSHIP_SETPREFIX":      "sn-",
		"SMARTNAT_LOG_LEVEL":                "debug",
		"SMARTNAT_LOG_FORMAT":               "json",
		"SMARTNAT_METRICS_ADDRESS":          "[::1]:9471",
		"SMARTNAT_FLOWLOG_FILE":             "/state/flows.jsonl",
		"SMARTNAT_FLOWLOG_MAXMEGABYTES":     "8",
		"SMARTNAT_ANNOUNCE_NETWORKS":        "203.0.113.0/28, 2001:db8:a::10/128",
		"SMARTNAT_ANNOUNCE_FILE":            "/etc/bird/smartnat.conf",
		"SMARTNAT_ANNOUNCE_SOCKET":          "/bird.ctl",
		"SMARTNAT_HA_SYNCLINK":              "eth3",
		"SMARTNAT_HA_SYNCADDRESS":           "10.99.0.1",
		"SMARTNAT_HA_PEER":                  "10.99.0.2",
		"SMARTNAT_HA_SYNCPORT":              "3781",
		"SMARTNAT_HA_LINKS": `[{interface: eth1, virtualAddresses: [198.51.100.30, "2001:db8:1::30"], addresses: [198.51.100.11, "2001:db8:1::11"], peers: [198.51.100.12, "2001:db8:1::12"]},
			{interface: eth0, virtualAddresses: [10.10.0.9], addresses: [10.10.0.2], peers: [10.10.0.3]}]`,
		"SMARTNAT_HA_PRIORITY":        "150",
		"SMARTNAT_HA_PREEMPT":         "after 1m",
		"SMARTNAT_HA_ADVERTINTERVAL":  "50ms",
		"SMARTNAT_HA_VIRTUALROUTERID": "60",
		"SMARTNAT_HA_HOOK":            "/etc/smartnat/ha-hook",
	}
	const other = "instance: other\nuplinks: [{interface: eth9}]\nmasquerade: true\nsource: {relay: {servers: ['https://x:1'], tokenFile: /x}}"
	got, err := parse("f", []byte(other), func(name string) string { return environment[name] })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wholeConfig(), got, addresses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReservedPortsReplaceTheDefault checks that a list in the file replaces the default.
func TestReservedPortsReplaceTheDefault(t *testing.T) {
	const right = "instance: gw1\nsource: {files: {paths: [/objects]}}\n"
	for text, want := range map[string]string{
		"":                          "[22/tcp 179/tcp]",
		"reservedPorts: []":         "[]",
		"reservedPorts: [2222/tcp]": "[2222/tcp]",
		"reservedPorts: ['1-1023/TCP', 53/udp, 500/udp]": "[1-1023/tcp 53/udp 500/udp]",
	} {
		cfg, err := parse("f", []byte(right+text), noEnvironment)
		if got := fmt.Sprint(cfg.ReservedPorts); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
}

// TestDocumentation checks that doc.go lists all variables.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range leafKeys(reflect.TypeFor[document](), "") {
		if !strings.Contains(string(text), "\t"+variable(k.name)+"=") {
			t.Errorf("doc.go does not list %s", variable(k.name))
		}
	}
}

func TestDefaults(t *testing.T) {
	got, err := parse("f", []byte("instance: gw1\nsource: {files: {paths: [/objects]}}\nuplinks:\nserviceRoutes: []\n"), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Instance, want.Node = "gw1", "gw1"
	want.Source.Files = &Files{Paths: []string{"/objects"}}
	if diff := cmp.Diff(want, got, addresses, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err = parse("f", []byte("source: {files: {paths: [/objects]}}"), noEnvironment); err != nil || got.Instance == "" {
		t.Errorf("instance %q, error %v; want the host's name", got.Instance, err)
	}
}

const notMasqueradeAddress = "must be a unicast address of a network that leads to the pods, not unspecified, loopback, link-local, multicast or broadcast"

// TestMistakes appends each mistake to an otherwise valid file.
func TestMistakes(t *testing.T) {
	const right = "instance: gw1\nsource: {files: {paths: [/objects]}}\n"
	for _, test := range []struct {
		name, text string
		env        map[string]string
		want       []string
	}{
		{name: "unknown key", text: right + "upliks: []", want: []string{"f:3: upliks: unknown key; did you mean uplinks?"}},
		{name: "key in another case", text: right + "standbyaddresses: []", want: []string{"f:3: standbyaddresses: unknown key; did you mean standbyAddresses?"}},
		{name: "key like no other", text: right + "log: {verbosity: 5}", want: []string{"f:3: log.verbosity: unknown key; must be one of level, format"}},
		{name: "unknown key in a list", text: right + "uplinks:\n- {interface: eth1}\n- {interface: eth2,\n   gatewayOfset: 1}",
			want: []string{"f:6: uplinks[1].gatewayOfset: unknown key; did you mean gatewayOffset?"}},
		{name: "unknown key in a variable", text: right, env: map[string]string{"SMARTNAT_UPLINKS": "[{interfaces: eth1, interface: eth1}]"},
			want: []string{"SMARTNAT_UPLINKS: uplinks[0].interfaces: unknown key; did you mean interface?"}},
		{name: "renamed keys", text: right + "iptables:\n  backend: nft\n  ipv6: false", want: []string{
			"f:4: iptables.backend: was renamed to iptables.variant (nft is nf_tables)",
			"f:5: iptables.ipv6: was renamed to ipv6, at the top level",
		}},
		{name: "renamed variables", text: right, env: map[string]string{"SMARTNAT_IPTABLES_BACKEND": "nft", "SMARTNAT_IPTABLES_IPV6": "false"}, want: []string{
			"SMARTNAT_IPTABLES_BACKEND: iptables.backend: was renamed to iptables.variant (nft is nf_tables)",
			"SMARTNAT_IPTABLES_IPV6: iptables.ipv6: was renamed to ipv6, at the top level",
		}},
		{name: "data plane that does not exist", text: right + "dataplane: nft",
			want: []string{`f:3: dataplane: Unsupported value: "nft": supported values: "auto", "nftables", "iptables"`}},
		{name: "variant by the name of its programs", text: right + "iptables: {variant: nft}",
			want: []string{`f:3: iptables.variant: Unsupported value: "nft": supported values: "auto", "nf_tables", "legacy"`}},
		{name: "endpointChoice that does not exist", text: right + "endpointChoice: hash",
			want: []string{`f:3: endpointChoice: Unsupported value: "hash": supported values: "random", "maglev"`}},
		{name: "endpointChoice without nftables", text: right + "endpointChoice: maglev",
			want: []string{`f:3: endpointChoice: Invalid value: "maglev": needs dataplane: nftables; iptables has no such hash`}},
		{name: "flowtable that does not exist", text: right + "flowtable: on",
			want: []string{`f:3: flowtable: Unsupported value: "on": supported values: "auto", "off"`}},
		{name: "not a key for users", text: right + "anyAddress: true", want: []string{"f:3: anyAddress: unknown key; this version of smartnatd has none of this name, see man smartnat.yaml"}},
		{name: "several at once, in the order of the file", text: "resync: soon\n" + right + "masquerade: perhaps\nlog: {level: loud, colour: red}\nuplinks: [{interface: eth1, gateway: 198.51.100.300}]",
			env: map[string]string{"SMARTNAT_IPTABLES_LOCKTIMEOUT": "5"},
			want: []string{
				`SMARTNAT_IPTABLES_LOCKTIMEOUT: iptables.lockTimeout: "5": must be a duration such as 30s or 5m`,
				`f:1: resync: "soon": must be a duration such as 30s or 5m`,
				`f:4: masquerade: "perhaps": must be true or false`,
				`f:5: log.colour: unknown key; must be one of level, format`,
				`f:6: uplinks[0].gateway: "198.51.100.300": must be an IP address such as 198.51.100.1`,
			}},
		{name: "number for a duration", text: right + "resync: 30", want: []string{`f:3: resync: "30": must be a duration such as 30s or 5m`}},
		{name: "value for a group", text: right + "iptables: legacy", want: []string{"f:3: iptables: must hold keys: variant, lockTimeout"}},
		{name: "group for a value", text: right + "resync: {every: 5s}", want: []string{"f:3: resync: must be a single value"}},
		{name: "list for a value", text: right + "ownership: {routingTable: [1]}", want: []string{"f:3: ownership.routingTable: must be a single value"}},
		{name: "group for a list", text: right + "uplinks: {interface: eth1}", want: []string{"f:3: uplinks: must be a list"}},
		{name: "list for the whole", text: "- a", want: []string{"f: must hold keys: instance, node, source, serviceRoutes, masquerade, masqueradePorts, masqueradeAddresses, helpers, clampMSS, forwardedOnly, maxPortsPerMapping, maxPortsPerNamespace, maxRulesPerMapping, maxRulesPerNamespace, insideNetworks, standbyAddresses, servedAddresses, reservedPorts, grants, pinnedGrants, backendNetworks, endpointsWithoutSelector, resync, startTimeout, stateDir, runtimeDir, ipv6, dataplane, flowtable, endpointChoice, iptables, ownership, log, metrics, flowLog, ha, announce, uplinks"}},
		{name: "network with a bad length", text: right + "serviceRoutes: [{destination: 10.96.0.0/33, via: [10.10.0.11]}]",
			want: []string{`f:3: serviceRoutes[0].destination: "10.96.0.0/33": must be a network such as 10.96.0.0/16`}},
		{name: "ports without a protocol", text: right + "reservedPorts: [22/tcp, '2222']",
			want: []string{`f:3: reservedPorts[1]: "2222": must be ports of a protocol such as 22/tcp or 5000-5010/udp`}},
		{name: "ports the wrong way round", text: right + "reservedPorts: [5010-5000/udp]",
			want: []string{`f:3: reservedPorts[0]: "5010-5000/udp": must be ports of a protocol such as 22/tcp or 5000-5010/udp`}},
		{name: "masquerade addresses", text: right + "masqueradeAddresses: [10.10.0.0/24]",
			want: []string{`f:3: masqueradeAddresses[0]: "10.10.0.0/24": must be an IP address such as 198.51.100.1`}},
		{name: "masquerade addresses that answers cannot reach",
			text: right + "masqueradeAddresses: [10.10.0.100, 127.0.0.1, 10.10.0.100, '::', 'fe80::1', 'fd00::1%eth0', 'ff02::1', 255.255.255.255, '::ffff:10.10.0.101']",
			want: []string{
				`f:3: masqueradeAddresses[1]: Invalid value: "127.0.0.1": ` + notMasqueradeAddress,
				`f:3: masqueradeAddresses[2]: Invalid value: "10.10.0.100": must be listed only once`,
				`f:3: masqueradeAddresses[3]: Invalid value: "::": ` + notMasqueradeAddress,
				`f:3: masqueradeAddresses[4]: Invalid value: "fe80::1": ` + notMasqueradeAddress,
				`f:3: masqueradeAddresses[5]: Invalid value: "fd00::1%eth0": must be written as fd00::1`,
				`f:3: masqueradeAddresses[6]: Invalid value: "ff02::1": ` + notMasqueradeAddress,
				`f:3: masqueradeAddresses[7]: Invalid value: "255.255.255.255": ` + notMasqueradeAddress,
				`f:3: masqueradeAddresses[8]: Invalid value: "::ffff:10.10.0.101": must be written as 10.10.0.101`,
			}},
		{name: "too many masquerade addresses", text: right + "masqueradeAddresses: [" + strings.Repeat("10.10.0.1, ", 17) + "]",
			want: []string{`f:3: masqueradeAddresses: Invalid value: 17: must hold at most 16 addresses`}},
		{name: "not YAML", text: "a: b: c", want: []string{"f: yaml: mapping values are not allowed in this context"}},
		{name: "key twice", text: right + "instance: gw2", want: []string{"f:3: instance: duplicate key, already set in line 1"}},
		{name: "two documents", text: right + "---\n" + right, want: []string{"f: must hold one YAML document, not several"}},
		{name: "nothing", text: "instance: gw1", want: []string{"f: source: Required value: must hold one of relay, kubeconfig, files"}},
		{name: "a context of no file", text: "instance: gw1\nsource:\n  kubeconfig: {context: a}",
			want: []string{"f:3: source.kubeconfig.path: Required value: must be the path of the kubeconfig file that has the context"}},
		{name: "two sources", text: "instance: gw1\nsource:\n  files: {paths: [/o]}\n  kubeconfig: {path: /k}",
			want: []string{`f:2: source: Invalid value: "kubeconfig, files": must be only one of them`}},
		{name: "gateway twice", text: right + "uplinks: [{interface: eth1, gateway: 10.0.0.1, gateways: [10.0.0.2]}]",
			want: []string{"f:3: uplinks[0].gateway: must not be set together with gateways"}},
		{name: "bad instance", text: "instance: Gateway One\nsource: {files: {paths: [/o]}}",
			want: []string{`f:1: instance: Invalid value: "Gateway One": must be a name of lower case letters, digits, '-' and '.', as a host name is; set it when the host's own name is not`}},
		{name: "bad node", text: right + "node: Node One", want: []string{`f:3: node: Invalid value: "Node One": must be the name of a node, as kubectl get nodes shows it`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse("f", []byte(test.text), func(name string) string { return test.env[name] })
			checkLines(t, err, test.want)
		})
	}
}

func checkLines(t *testing.T, err error, want []string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestValidate checks that each mistake is reported by its key, and nothing else is.
func TestValidate(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"source: {relay: {servers: [], tokenFile: /t}}", []string{"source.relay.servers"}},
		{"source: {relay: {servers: ['http://a:1', 'https://', 'https://a/b', 'https://a:1', 'https://u@a'], tokenFile: /t}}",
			[]string{"source.relay.servers[0]", "source.relay.servers[1]", "source.relay.servers[2]", "source.relay.servers[4]"}},
		{"source: {relay: {servers: ['https://a']}}", []string{"source.relay.tokenFile"}},
		{"source: {relay: {servers: ['https://a'], certFile: /c}}", []string{"source.relay.keyFile"}},
		{"source: {relay: {servers: ['https://a'], keyFile: /c}}", []string{"source.relay.certFile"}},
		{"source: {relay: {servers: ['https://a'], keyFile: /k, certFile: /c, tokenFile: /t}}", []string{"source.relay.tokenFile"}},
		{"source: {relay: {servers: ['https://a'], caFile: ca, certFile: \"/c\\r\", keyFile: \"/k\\n\"}}",
			[]string{"source.relay.caFile", "source.relay.certFile", "source.relay.keyFile"}},
		{"source: {relay: {servers: ['https://a'], tokenFile: abc}}", []string{"source.relay.tokenFile"}},
		{"source: {kubeconfig: {path: k}}", []string{"source.kubeconfig.path"}},
		{"source: {kubeconfig: {context: x}}", []string{"source.kubeconfig.path"}},
		{"source: {files: {paths: []}}", []string{"source.files.paths"}},
		{"source: {files: {paths: ['-', '', a]}}", []string{"source.files.paths[0]", "source.files.paths[1]"}},
		{"uplinks: [{gateway: 10.0.0.1}]", []string{"uplinks[0].interface"}},
		{"uplinks: [{interface: '/(/'}, {interface: 'eth['}, {interface: a/b}, {interface: sixteen-letters-}]",
			[]string{"uplinks[0].interface", "uplinks[1].interface", "uplinks[2].interface", "uplinks[3].interface"}},
		{"uplinks: [{interface: eth1}, {interface: eth1}]", []string{"uplinks[1].interface"}},
		{"uplinks: [{interface: eth1, gateway: 10.0.0.1, gatewayOffset: 1}]", []string{"uplinks[0].gatewayOffset"}},
		{"uplinks: [{interface: eth1, gatewayOffset: -1}]", []string{"uplinks[0].gatewayOffset"}},
		{"uplinks: [{interface: eth1, gateways: [10.0.0.1, 10.0.0.2]}]", []string{"uplinks[0].gateways"}},
		{"uplinks: [{interface: eth1, gateway: 224.0.0.1}]", []string{"uplinks[0].gateways[0]"}},
		{"serviceRoutes: [{via: [10.0.0.1]}]", []string{"serviceRoutes[0].destination"}},
		{"serviceRoutes: [{destination: 10.96.0.1/16, via: []}]", []string{"serviceRoutes[0].destination", "serviceRoutes[0].via"}},
		{"serviceRoutes: [{destination: 0.0.0.0/0, via: [10.0.0.1]}]", []string{"serviceRoutes[0].destination"}},
		{"serviceRoutes: [{destination: 10.96.0.0/16, via: ['fd00::1']}]", []string{"serviceRoutes[0].via[0]"}},
		{"serviceRoutes: [{destination: 10.96.0.0/16, via: [10.0.0.1]}, {destination: 10.96.0.0/16, via: [10.0.0.1]}]", []string{"serviceRoutes[1].destination"}},
		{"insideNetworks: [10.0.0.0/8, 10.0.0.0/8, 10.0.0.1/8, 0.0.0.0/0, '::/0']", []string{"insideNetworks[1]", "insideNetworks[2]", "insideNetworks[3]", "insideNetworks[4]"}},
		{"standbyAddresses: [127.0.0.1, 10.0.0.1, 10.0.0.1, '::ffff:10.0.0.2']", []string{"standbyAddresses[0]", "standbyAddresses[2]", "standbyAddresses[3]"}},
		{"resync: 10ms", []string{"resync"}},
		{"maxPortsPerMapping: -1\nmaxPortsPerNamespace: -1\nmaxRulesPerMapping: -1\nmaxRulesPerNamespace: -1",
			[]string{"maxPortsPerMapping", "maxPortsPerNamespace", "maxRulesPerMapping", "maxRulesPerNamespace"}},
		{"masqueradePorts: 1024-70000", []string{"masqueradePorts"}},
		{"helpers: {ftp: [0], tftp: [65536]}", []string{"helpers.ftp[0]", "helpers.tftp[0]"}},
		{"helpers: {ftp: [21.5]}", []string{"helpers.ftp[0]"}},
		{"helpers: {sip: [5060]}", []string{"helpers.sip"}},
		{"masqueradePorts: 2000-1000", []string{"masqueradePorts"}},
		{"masqueradePorts: 0-1000", []string{"masqueradePorts"}},
		{"servedAddresses: [127.0.0.1, 10.0.0.1, 10.0.0.1]", []string{"servedAddresses[0]", "servedAddresses[2]"}},
		{"backendNetworks: [0.0.0.0/0, 10.0.0.1/8, 10.0.0.0/8, 10.0.0.0/8]", []string{"backendNetworks[0]", "backendNetworks[1]", "backendNetworks[3]"}},
		{"grants: closed", []string{"grants"}},
		{"pinnedGrants: [{addresses: []}]", []string{"pinnedGrants[0].addresses"}},
		{
			"pinnedGrants: [{addresses: [10.0.0.1/8], namespaces: [Shop], allowedSources: [10.0.0.1/8, 0.0.0.0/0], maxPorts: -1}]",
			[]string{"pinnedGrants[0].addresses[0]", "pinnedGrants[0].namespaces[0]", "pinnedGrants[0].allowedSources[0]", "pinnedGrants[0].maxPorts"},
		},
		{"pinnedGrants: [{addresses: [0.0.0.0/0, '::/0'], maxPorts: 16777216}]", nil},
		{"pinnedGrants: [{addresses: ['::ffff:10.0.0.0/104'], namespaces: [shop, shop], maxPorts: 4294967296}]",
			[]string{"pinnedGrants[0].addresses[0]", "pinnedGrants[0].namespaces[1]", "pinnedGrants[0].maxPorts"}},
		{"pinnedGrants: [{addresses: [10.0.0.0/8], ports: [" + strings.Repeat("80/tcp, ", 65) + "]}]", []string{"pinnedGrants[0].ports"}},
		{"stateDir: state", []string{"stateDir"}},
		{"runtimeDir: ''", []string{"runtimeDir"}},
		{"flowLog: {file: flows.jsonl}", []string{"flowLog.file"}},
		{"flowLog: {maxMegabytes: 3}", []string{"flowLog.maxMegabytes"}},
		{"flowLog: {maxMegabytes: 5000}", []string{"flowLog.maxMegabytes"}},
		{"flowLog: {maxMegabytes: 64Mi}", []string{"flowLog.maxMegabytes"}},
		{"iptables: {variant: nftables, lockTimeout: -1s}", []string{"iptables.variant", "iptables.lockTimeout"}},
		{"log: {level: loud, format: xml}", []string{"log.level", "log.format"}},
		{"ownership: {chainPrefix: 'A B', setPrefix: ''}", []string{"ownership.chainPrefix", "ownership.setPrefix"}},
		{"ownership: {chainPrefix: THIRTEENCHARS}", []string{"ownership.chainPrefix"}},
		{"ownership: {markMask: 0x1f}", []string{"ownership.markMask"}},
		{"ownership: {markMask: 0x1ef0}", []string{"ownership.markMask"}},
		{"ownership: {routingTable: 254}", []string{"ownership.routingTable"}},
		{"ownership: {routingTable: 230}", []string{"ownership.routingTable"}},
		{"ownership: {rulePriority: 32765}", []string{"ownership.rulePriority"}},
		{"ownership: {rulePriority: 0}", []string{"ownership.rulePriority"}},
		{"ownership: {routeProtocol: 4}", []string{"ownership.routeProtocol"}},
		{"ownership: {routeProtocol: 256}", []string{"ownership.routeProtocol"}},
		{"ownership: {markMask: 0x1ff000, routingTable: 256, rulePriority: 1, routeProtocol: 255}", nil},
		{"uplinks: [{interface: '/^eth[0-9]+$/', gateway: 'fe80::1'}, {interface: 'wan?'}, {interface: eth0.100}]", nil},
		{"source: {relay: {servers: ['https://[2001:db8::1]:8443/', 'https://relay.example.com'], keyFile: /k, certFile: /c}}", nil},
	} {
		t.Run(test.text, func(t *testing.T) {
			text := "instance: gw1\n" + test.text
			if !strings.HasPrefix(test.text, "source") {
				text += "\nsource: {files: {paths: [/objects]}}"
			}
			_, err := parse("f", []byte(text), noEnvironment)
			var got []string
			if err != nil {
				for line := range strings.Lines(err.Error()) {
					got = append(got, strings.SplitN(line, ": ", 3)[1])
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("keys named (-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "smartnat.yaml")
	if _, err := Load(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v does not name %s", err, missing)
	}
	if err := os.WriteFile(missing, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(missing); err != nil {
		t.Error(err)
	}
}

func TestPattern(t *testing.T) {
	for _, test := range []struct {
		text, name string
		want       bool
	}{
		{"wan*", "wan0", true}, {"wan*", "lan0", false}, {"eth[12]", "eth2", true}, {"/^eth[0-9]+$/", "eth10", true}, {"/^eth[0-9]+$/", "veth1", false},
	} {
		matches, err := Uplink{Interface: test.text}.Pattern()
		if err != nil || matches == nil {
			t.Fatalf("%s: %v", test.text, err)
		}
		if got := matches(test.name); got != test.want {
			t.Errorf("%s matches %s: %v, want %v", test.text, test.name, got, test.want)
		}
	}
	if matches, err := (Uplink{Interface: "eth1"}).Pattern(); matches != nil || err != nil {
		t.Errorf("a name counts as a pattern: %v", err)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := selfSigned(t)
	_, otherKey := selfSigned(t)
	certFile, keyFile, otherKeyFile := write("cert", cert), write("key", key), write("other", otherKey)
	token, text, missing := write("token", []byte("abc\n")), write("text", []byte("no certificate")), filepath.Join(dir, "missing")
	for _, test := range []struct {
		name   string
		source Source
		want   []string
	}{
		{"all well", Source{Relay: &Relay{CAFile: certFile, CertFile: certFile, KeyFile: keyFile}}, nil},
		{"token", Source{Relay: &Relay{TokenFile: token}}, nil},
		{"unreadable certificate", Source{Relay: &Relay{CAFile: missing, TokenFile: token}},
			[]string{`source.relay.caFile: "` + missing + `": open ` + missing + `: no such file or directory`}},
		{"not a certificate", Source{Relay: &Relay{CAFile: text, TokenFile: text}},
			[]string{`source.relay.caFile: "` + text + `": must hold a certificate in PEM`, `source.relay.tokenFile: "` + text + `": must hold one bearer token and nothing else`}},
		{"another's key", Source{Relay: &Relay{CertFile: certFile, KeyFile: otherKeyFile}},
			[]string{`source.relay.keyFile: "` + otherKeyFile + `": must hold the key of the certificate in certFile: tls: private key does not match public key`}},
		{"kubeconfig", Source{Kubeconfig: &Kubeconfig{Path: missing}}, []string{`source.kubeconfig.path: "` + missing + `": open ` + missing + `: no such file or directory`}},
		{"objects", Source{Files: &Files{Paths: []string{dir, missing}}}, []string{"source.files.paths[1]: stat " + missing + ": no such file or directory"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Config{Source: test.source}.CheckFiles()
			if test.want != nil {
				checkLines(t, err, test.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func selfSigned(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// TestInAPod checks that a kubeconfig without a path is a source, also if it holds nothing.
func TestInAPod(t *testing.T) {
	for _, text := range []string{"source: {kubeconfig: {}}", "source:\n  kubeconfig: {path: \"\"}"} {
		cfg, err := parse("f", []byte(text), func(key string) string { return map[string]string{"SMARTNAT_INSTANCE": "node-1"}[key] })
		if err != nil || cfg.Source.Kubeconfig == nil || cfg.Instance != "node-1" || cfg.InstanceFromHost {
			t.Errorf("%s: %+v, %v", text, cfg.Source, err)
		}
		if err := cfg.CheckFiles(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
