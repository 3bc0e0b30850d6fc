// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func stateOf(networks ...string) *gateway.State {
	s := &gateway.State{}
	for i, n := range networks {
		s.Uplinks = append(s.Uplinks, gateway.Uplink{Number: i + 1, Connected: []netip.Prefix{netip.MustParsePrefix(n), netip.MustParsePrefix("fe80::/64"), netip.MustParsePrefix("198.51.100.20/32")}})
	}
	return s
}

func TestCompare(t *testing.T) {
	first, other := pair(), second()
	other.HA.AdvertInterval = first.HA.AdvertInterval
	facts := func() (own, peer Facts) {
		return Facts{Version: "1", Priority: 150, Settings: Settings(first, stateOf("198.51.100.0/24", "203.0.113.0/24"))},
			Facts{Version: "1", Priority: 100, Settings: Settings(other, stateOf("198.51.100.0/24", "203.0.113.0/24"))}
	}
	for _, test := range []struct {
		name   string
		change func(peer *Facts)
		want   []string
	}{
		{"the same", func(*Facts) {}, nil},
		{"nothing is in effect yet", func(peer *Facts) { peer.Settings = Settings(other, nil) }, nil},
		{"the order of uplinks", func(peer *Facts) { peer.Settings = Settings(other, stateOf("203.0.113.0/24", "198.51.100.0/24")) },
			[]string{`uplinks: "1 is 198.51.100.0/24, 2 is 203.0.113.0/24" here and "1 is 203.0.113.0/24, 2 is 198.51.100.0/24" on the peer: must be the same on both`}},
		{"markMask", func(peer *Facts) {
			changed := other
			changed.Ownership.MarkMask = 0x3f0
			peer.Settings = Settings(changed, nil)
		}, []string{`ownership.markMask: "0x1ff0" here and "0x3f0" on the peer: must be the same on both`}},
		{"the interval", func(peer *Facts) { peer.Settings = Settings(second(), nil) },
			[]string{`ha.advertInterval: "100ms" here and "50ms" on the peer: must be the same on both`}},
		{"the priority", func(peer *Facts) { peer.Priority = 150 }, []string{"ha.priority: 150 on both: must differ"}},
		{"the version", func(peer *Facts) { peer.Version = "2\n" }, []string{`version: "1" here and "2\n" on the peer: upgrade the other one`}},
		{"a long text", func(peer *Facts) { peer.Settings["ha.links"] = strings.Repeat("x", 10000) },
			[]string{`ha.links: "198.51.100.10 2001:db8:1::10 198.51.100.11; 10.10.0.1" here and "` + strings.Repeat("x", maxText) + `" on the peer: must be the same on both`}},
		{"a key of another version", func(peer *Facts) { peer.Settings["later"] = "x" }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			own, peer := facts()
			test.change(&peer)
			if diff := cmp.Diff(test.want, Compare(own, peer)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseFacts(t *testing.T) {
	right := Facts{Version: "1", Instance: "gw1", Priority: 100, Settings: map[string]string{"a": "b"}, Role: Notified{Role: Backup}, Missed: addrs("198.51.100.1")}
	text, err := json.Marshal(right)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseFacts(text); err != nil || got.Version != "1" || len(got.Missed) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, garbage := range []string{
		"", "hello\n", "null", "{}", "[]", "\x00\xff", `{"version": "1"}`, `{"version": 1}`, strings.Repeat("[", MaxFacts), strings.Repeat(" ", MaxFacts+1),
		strings.Replace(string(text), "backup", "king", 1), strings.Replace(string(text), `"priority":100`, `"priority":0`, 1), string(text) + "x",
		strings.Replace(string(text), "198.51.100.1", "198.51.100", 1), strings.Replace(string(text), `"connections":0`, `"connections":-1`, 1),
	} {
		if _, err := ParseFacts([]byte(garbage)); err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 100 {
			t.Errorf("%.40q: error %v, want one short line", garbage, err)
		}
	}
}

// TestParseFactsForTerminals expects that nothing of the peer can be more than the name or address that it should be.
func TestParseFactsForTerminals(t *testing.T) {
	many := make([]netip.Addr, maxWatched/2)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	for name, test := range map[string]struct {
		change func(*Facts)
		right  bool
	}{
		"as it is":                {func(*Facts) {}, true},
		"as many as there can be": {func(f *Facts) { f.Missed, f.Answering = many, many }, true},
		"one more":                {func(f *Facts) { f.Missed, f.Answering = many, slices.Concat(many, many[:1]) }, false},
		"a long version":          {func(f *Facts) { f.Version = strings.Repeat("1", maxText) }, true},
		"too long a version":      {func(f *Facts) { f.Version = strings.Repeat("1", maxText+1) }, false},
		"a version that clears":   {func(f *Facts) { f.Version = "1\x1b[2J" }, false},
		"a version of two lines":  {func(f *Facts) { f.Version = "1\n2" }, false},
		"right to left":           {func(f *Facts) { f.Version = "1\u202e2" }, false},
		"no instance":             {func(f *Facts) { f.Instance = "" }, false},
		"an instance of words":    {func(f *Facts) { f.Instance = "gw1 is primary" }, false},
		"a long instance":         {func(f *Facts) { f.Instance = strings.Repeat("x", 300) }, false},
		"missed with a zone":      {func(f *Facts) { f.Missed = addrs("fe80::1%\x1b[2J") }, false},
		"answering with a zone":   {func(f *Facts) { f.Answering = addrs("fe80::1%eth0") }, false},
		"an empty address":        {func(f *Facts) { f.Missed = []netip.Addr{{}} }, false},
		"link-local":              {func(f *Facts) { f.Missed = addrs("fe80::1") }, true},
	} {
		f := Facts{Version: "1.2.3-rc.1+build", Instance: "gw1.example.com", Priority: 100, Settings: map[string]string{}, Role: Notified{Role: Partial}}
		test.change(&f)
		text, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseFacts(text); (err == nil) != test.right || err != nil && (strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 100) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestRefreshInterval(t *testing.T) {
	for _, test := range []struct {
		timeouts []time.Duration
		want     time.Duration
	}{
		{[]time.Duration{30 * time.Second, 2 * time.Minute, 120 * time.Hour}, 7500 * time.Millisecond},
		{[]time.Duration{10 * time.Second, 2 * time.Minute}, 5 * time.Second},
		{[]time.Duration{0, 2 * time.Minute}, 30 * time.Second},
		{[]time.Duration{0, 0}, 10 * time.Minute},
	} {
		if got := RefreshInterval(test.timeouts...); got != test.want {
			t.Errorf("%v: %s, want %s", test.timeouts, got, test.want)
		}
	}
}
