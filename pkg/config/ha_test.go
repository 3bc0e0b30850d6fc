// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
)

const rightHA = `instance: gw1
source: {files: {paths: [/objects]}}
uplinks: [{interface: 'eth[12]'}]
standbyAddresses: [198.51.100.20]
ha:
  syncLink: eth3
  syncAddress: 10.99.0.1
  peer: 10.99.0.2
  links:
  - interface: eth1
    virtualAddresses: [198.51.100.20, '2001:db8:1::20']
    addresses: [198.51.100.11, '2001:db8:1::11']
    peers: [198.51.100.12, '2001:db8:1::12']
  - interface: eth0
    virtualAddresses: [10.10.0.9]
    addresses: [10.10.0.2]
    peers: [10.10.0.3]
`

// TestAddressesFollowFromHA checks that the virtual addresses of uplinks are programmed ahead, once, and those inside masquerade.
func TestAddressesFollowFromHA(t *testing.T) {
	cfg, err := parse("f", []byte(rightHA), noEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(cfg.StandbyAddresses), "[198.51.100.20 2001:db8:1::20]"; got != want {
		t.Errorf("standbyAddresses %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(cfg.MasqueradeAddresses), "[10.10.0.9]"; got != want {
		t.Errorf("masqueradeAddresses %s, want %s", got, want)
	}
	if !cfg.HA.Enabled() || cfg.HA.Preempt != (Preempt{}) {
		t.Errorf("%+v", cfg.HA)
	}
}

// TestMistakesOfHA makes one mistake at a time, and expects one line that names it.
func TestMistakesOfHA(t *testing.T) {
	var seventeen []string
	for i := range 17 {
		seventeen = append(seventeen, fmt.Sprintf("10.10.0.%d", 100+i))
	}
	for _, test := range []struct{ old, new, want string }{
		{"peer: 10.99.0.2", "", `f:5: ha.peer: Required value: must be an address on the link between both boxes, such as 10.99.0.1`},
		{"peer: 10.99.0.2", "peer: 10.99.0.1", `f:8: ha.peer: Invalid value: "10.99.0.1": must not be this host's own syncAddress`},
		{"peer: 10.99.0.2", "peer: 'fd00::2'", `f:8: ha.peer: Invalid value: "fd00::2": must be of the same family as syncAddress`},
		{"peer: 10.99.0.2", "peer: 'fe80::2%eth3'", `f:8: ha.peer: Invalid value: "fe80::2%eth3": must be a unicast address that is not link-local`},
		{"peer: 10.99.0.2", "peer: gw2", `f:8: ha.peer: "gw2": must be an IP address such as 198.51.100.1`},
		{"syncLink: eth3", "syncLink: eth0", `f:6: ha.syncLink: Invalid value: "eth0": must be a link of its own: when a link with virtual addresses fails, the boxes must still reach each other`},
		{"syncLink: eth3", "syncLink: 'eth3}'", `f:6: ha.syncLink: Invalid value: "eth3}": must be the name of a link: at most 15 letters, digits, '_', '.' and '-'`},
		{"interface: eth0", "interface: 'eth*'", `f:14: ha.links[1].interface: Invalid value: "eth*": must be the name of a link: at most 15 letters, digits, '_', '.' and '-'`},
		{"interface: eth0", "interface: eth1", `f:14: ha.links[1].interface: Duplicate value: "eth1"`},
		{"virtualAddresses: [10.10.0.9]", "virtualAddresses: [10.10.0.9, 198.51.100.20]", `f:11: ha.links[0].virtualAddresses[0]: Duplicate value: "198.51.100.20"`},
		{"virtualAddresses: [10.10.0.9]", "virtualAddresses: [10.10.0.3]", `f:15: ha.links[1].virtualAddresses[0]: Invalid value: "10.10.0.3": must not be an address that one box keeps`},
		{"virtualAddresses: [10.10.0.9]", "virtualAddresses: [10.10.0.9, 127.0.0.1]", `f:15: ha.links[1].virtualAddresses[1]: Invalid value: "127.0.0.1": must be a unicast address`},
		{"'2001:db8:1::20'", "'fe80::20'", `f:11: ha.links[0].virtualAddresses[1]: Invalid value: "fe80::20": must not be link-local; the one that IPv6 needs is derived`},
		{"peers: [10.10.0.3]", "peers: [10.10.0.2]", `f:17: ha.links[1].peers[0]: Invalid value: "10.10.0.2": must not be an address of this host`},
		{"peers: [10.10.0.3]", "peers: []", `f:17: ha.links[1].peers: Invalid value: "[]": must hold one address for each family of virtualAddresses`},
		{"addresses: [10.10.0.2]", "addresses: [10.10.0.2, 'fd00:10::2']", `f:16: ha.links[1].addresses: Invalid value: "[10.10.0.2 fd00:10::2]": must hold one address for each family of virtualAddresses`},
		{"[10.10.0.9]", "[10.10.0.9, " + strings.Join(seventeen, ", ") + "]", `f:9: ha.links: Invalid value: 18: must have at most 16 virtual addresses on links that are not uplinks, with those in masqueradeAddresses`},
		{"ha:", "ha:\n  advertInterval: 0s", `f:6: ha.advertInterval: Invalid value: "0s": must be from 10ms to 40.95s, in steps of 10ms (RFC 5798)`},
		{"ha:", "ha:\n  advertInterval: 41s", `f:6: ha.advertInterval: Invalid value: "41s": must be from 10ms to 40.95s, in steps of 10ms (RFC 5798)`},
		{"ha:", "ha:\n  advertInterval: 15ms", `f:6: ha.advertInterval: Invalid value: "15ms": must be from 10ms to 40.95s, in steps of 10ms (RFC 5798)`},
		{"ha:", "ha:\n  advertInterval: 0", `f:6: ha.advertInterval: Invalid value: "0s": must be from 10ms to 40.95s, in steps of 10ms (RFC 5798)`},
		{"ha:", "ha:\n  priority: 255", `f:6: ha.priority: Invalid value: 255: must be from 1 to 254, and not that of the peer`},
		{"ha:", "ha:\n  priority: 0", `f:6: ha.priority: Invalid value: 0: must be from 1 to 254, and not that of the peer`},
		{"ha:", "ha:\n  virtualRouterID: 0", `f:6: ha.virtualRouterID: Invalid value: 0: must be from 1 to 254, since each link has an ID of its own`},
		{"ha:", "ha:\n  virtualRouterID: 255", `f:6: ha.virtualRouterID: Invalid value: 255: must be from 1 to 254, since each link has an ID of its own`},
		{"ha:", "ha:\n  hook: ha-hook", `f:6: ha.hook: Invalid value: "ha-hook": must be an absolute path of letters, digits, '.', '_', '+' and '-', since keepalived would read other characters as its own`},
		{"ha:", "ha:\n  hook: '/bin/x\"; y'", `f:6: ha.hook: Invalid value: "/bin/x\"; y": must be an absolute path of letters, digits, '.', '_', '+' and '-', since keepalived would read other characters as its own`},
		{"ha:", "ha:\n  syncPort: 70000", `f:6: ha.syncPort: Invalid value: 70000: must be a port from 1 to 65535`},
		{"ha:", "ha:\n  preempt: always", `f:6: ha.preempt: "always": must be never, or after a time from 5s to 16m40s, such as after 1m`},
		{"ha:", "ha:\n  preempt: after 1s", `f:6: ha.preempt: "after 1s": must be never, or after a time from 5s to 16m40s, such as after 1m`},
		{"ha:", "ha:\n  preempt: after soon", `f:6: ha.preempt: "after soon": must be never, or after a time from 5s to 16m40s, such as after 1m`},
	} {
		t.Run(test.new, func(t *testing.T) {
			text := strings.Replace(rightHA, test.old, test.new, 1)
			_, err := parse("f", []byte(text), noEnvironment)
			checkLines(t, err, []string{test.want})
		})
	}
	_, err := parse("f", []byte("instance: gw1\nsource: {files: {paths: [/objects]}}\nha: {peer: 10.99.0.2, syncAddress: 10.99.0.1, syncLink: eth3}"), noEnvironment)
	checkLines(t, err, []string{"f:3: ha.links: Required value: must hold the links with virtual addresses"})
}
