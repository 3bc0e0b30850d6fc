// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strings"
	"testing"
)

func TestParseEnrolled(t *testing.T) {
	for _, test := range []struct{ name, text, want, problem string }{
		{"one address", "198.51.100.10", "198.51.100.10", ""},
		{"sorted, once each", " 2001:db8::1,198.51.100.16/28 , 198.51.100.10,uplink:eth1,198.51.100.10", "198.51.100.10,198.51.100.16/28,2001:db8::1,uplink:eth1", ""},
		{"a network of one", "198.51.100.10/32", "198.51.100.10", ""},
		{"any uplink", "uplink:*", "uplink:*", ""},
		{"empty", "", "", `"" is neither an address such as 198.51.100.10, nor a network such as 198.51.100.0/28, nor uplink:NAME`},
		{"only spaces", " ", "", `"" is neither`},
		{"a comma at the end", "198.51.100.10,", "", `"" is neither`},
		{"no address", "198.51.100.300", "", `"198.51.100.300" is neither`},
		{"separated by spaces", "198.51.100.10 198.51.100.11", "", `"198.51.100.10 198.51.100.11" is neither`},
		{"bits beyond the prefix", "198.51.100.17/28", "", `"198.51.100.17/28" has bits set beyond its prefix length: want 198.51.100.16/28`},
		{"a zone", "fe80::1%eth0", "", `"fe80::1%eth0" must have no zone and not be IPv4-mapped`},
		{"mapped", "::ffff:198.51.100.10", "", `"::ffff:198.51.100.10" must have no zone and not be IPv4-mapped`},
		{"a mapped network", "::ffff:198.51.100.0/120", "", `"::ffff:198.51.100.0/120" must not be IPv4-mapped`},
		{"an uplink without a name", "uplink:", "", `"uplink:" does not name an uplink`},
		{"an uplink with a space", "uplink:a b", "", `"uplink:a b" does not name an uplink`},
		{"too many", strings.Repeat("198.51.100.10,", 256) + "198.51.100.10", "", "has more than 256 entries or 16384 bytes: use networks"},
		{"too long", "uplink:" + strings.Repeat("a", 16<<10), "", "has more than 256 entries or 16384 bytes: use networks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseEnrolled(test.text)
			switch {
			case test.problem == "" && err != nil, test.problem != "" && (err == nil || !strings.HasPrefix(err.Error(), test.problem)):
				t.Fatalf("error %v, want %q", err, test.problem)
			case got.String() != test.want:
				t.Errorf("%q, want %q", got, test.want)
			}
			if again, err := ParseEnrolled(got.String()); test.problem == "" && (err != nil || again.String() != test.want) {
				t.Errorf("read again: %v, %v", again, err)
			}
		})
	}
}
