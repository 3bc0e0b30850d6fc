// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCanonicalTables expects that only the differences which packets notice remain.
func TestCanonicalTables(t *testing.T) {
	const listing = `table ip other {
	chain forward {
		drop
	}
}
table ip smartnat { # progname smartnatd
	comment "managed by smartnatd"
	flags owner

	map frontends {
		type ipv4_addr . inet_proto . inet_service : verdict
		counter
		elements = { 198.51.100.10 . tcp . 80 counter packets 3 bytes 180 : goto pick-2,
			     198.51.100.10 . udp . 53 counter packets 0 bytes 0 : goto pick-1 }
	}

	set clients {
		type ipv4_addr
		flags dynamic,timeout
		elements = { 192.0.2.10 timeout 10s expires 9s }
	}

	chain boundary {
		ip saddr @inside return
		counter packets 7 bytes 420 drop
	}
}
`
	const want = `table ip smartnat	chain boundary {
		ip saddr @inside return
		counter drop
	}
table ip smartnat	comment "managed by smartnatd"
table ip smartnat	flags owner
table ip smartnat	map frontends {
		type ipv4_addr . inet_proto . inet_service : verdict
		counter
		198.51.100.10 . tcp . 80 counter : goto pick-2
		198.51.100.10 . udp . 53 counter : goto pick-1
	}
table ip smartnat	set clients {
		type ipv4_addr
		flags dynamic,timeout
	}
table ip smartnat
`
	if diff := cmp.Diff(want, canonicalTables(listing, "smartnat")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, change := range []struct {
		name, old, new string
		differs        bool
	}{
		{"counters", "packets 3 bytes 180", "packets 4 bytes 240", false},
		{"what packets added", "{ 192.0.2.10 timeout 10s expires 9s }", "{ 192.0.2.10 timeout 10s expires 2s,\n\t\t\t     192.0.2.20 timeout 10s expires 1s }", false},
		{"an element", "198.51.100.10 . tcp . 80 counter packets 3 bytes 180 : goto pick-2", "198.51.100.11 . tcp . 80 : goto pick-2", true},
		{"the owner", "\tflags owner\n", "", true},
		{"the order of rules", "ip saddr @inside return\n\t\tcounter packets 7 bytes 420 drop", "counter packets 7 bytes 420 drop\n\t\tip saddr @inside return", true},
		{"another table", "table ip other", "table ip others", false},
	} {
		changed := strings.Replace(listing, change.old, change.new, 1)
		if changed == listing {
			t.Fatalf("%s: nothing to change", change.name)
		}
		if differs := canonicalTables(changed, "smartnat") != want; differs != change.differs {
			t.Errorf("%s: differs: %t, want %t", change.name, differs, change.differs)
		}
	}
}

// TestCountTransactions expects that only those of smartnatd count which change our tables.
func TestCountTransactions(t *testing.T) {
	const owner, change = "add table ip smartnat\n", "add element ip smartnat backends { 198.51.100.10 . tcp . 80 . 0 : 10.244.1.2 . 8080 }\n"
	const by, other = "# new generation 5 by process 12 (smartnatd)\n", "# new generation 6 by process 13 (nft)\n"
	for log, want := range map[string]int{
		"": 0, owner + by: 0, change: 0, change + by: 1, change + change + by: 1, change + by + change + by: 2, change + other: 0,
		change + other + owner + by: 0, "add rule ip smartnat-try forward drop\n" + by: 0,
	} {
		if got := countTransactions(log); got != want {
			t.Errorf("%d transactions, want %d, in\n%s", got, want, log)
		}
	}
}
