// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ipset

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink/nl"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// FuzzSets feeds arbitrary answers: the parser must not panic, and members must be valid networks.
func FuzzSets(f *testing.F) {
	f.Add([]byte{})
	f.Add(message("smartnat-a", netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")))
	f.Add(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, []byte("no end")).Serialize())
	f.Add(nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nil).Serialize())
	f.Add([]byte{0xff, 0xff, byte(nl.IPSET_ATTR_ADT), 0})
	f.Add([]byte{3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, p := range parse(text).members {
			if !p.IsValid() {
				t.Errorf("member %v", p)
			}
		}
	})
}

// TestParseAnswer checks that the seeds of FuzzSets parse to the intended values.
func TestParseAnswer(t *testing.T) {
	members := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}
	want := answer{name: "smartnat-a", family: gateway.IPv4, members: members}
	got := parse(message("smartnat-a", members...))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(answer{}), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// message returns an answer with name and members.
func message(name string, members ...netip.Prefix) []byte {
	entries := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
	for _, p := range members {
		appendMember(entries, p)
	}
	var text []byte
	for _, attribute := range []*nl.RtAttr{
		nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(name)),
		nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(families[gateway.IPv4])),
		entries,
	} {
		text = append(text, attribute.Serialize()...)
	}
	return text
}
