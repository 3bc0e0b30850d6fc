// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/cert"
)

const name = "smartnat-relay.smartnat.svc"

var start = time.Date(2030, time.January, 1, 0, 0, 0, 0, time.UTC)

// must returns the content that Renew wants at a time, and fails unless the reason is the wanted one.
func must(t *testing.T, current map[string][]byte, at time.Time, reason string) map[string][]byte {
	t.Helper()
	content, got, err := Renew(current, name, at)
	if err != nil || got != reason {
		t.Fatalf("at %s: reason %q, %v, want %q", at, got, err, reason)
	}
	return content
}

// accepts reports whether a gateway that knows only the authorities of one content accepts the certificate of another.
func accepts(t *testing.T, enrolled, served map[string][]byte, serverName string, at time.Time) error {
	t.Helper()
	roots, err := cert.NewPoolFromBytes(enrolled[keyAuthorities])
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pairOf(served)
	if err != nil {
		t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, raw := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: serverName, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

func TestRenewIsDue(t *testing.T) {
	first := must(t, nil, start, ReasonEmpty)
	for _, test := range []struct {
		name   string
		host   string
		at     time.Time
		reason string
	}{
		{"at once", name, start, ""},
		{"a day before the certificate is due", name, start.Add(59 * day), ""},
		{"thirty days before the certificate ends", name, start.Add(60*day + time.Second), ReasonCertificate},
		{"after the certificate has ended", name, start.Add(2 * year), ReasonCertificate},
		{"three years before the authority ends", name, start.Add(7*year + time.Second), ReasonAuthority},
		{"after the authority has ended", name, start.Add(11 * year), ReasonAuthority},
		{"a clock that was ahead", name, start.Add(-2 * time.Hour), ReasonFuture},
		{"another namespace", "smartnat-relay.other.svc", start, ReasonName},
	} {
		t.Run(test.name, func(t *testing.T) {
			content, reason, err := Renew(first, test.host, test.at)
			if err != nil || reason != test.reason {
				t.Fatalf("reason %q, %v, want %q", reason, err, test.reason)
			}
			if same := bytes.Equal(content[keyCertificate], first[keyCertificate]); same != (reason == "") {
				t.Errorf("the certificate is the same: %t", same)
			}
		})
	}
}

// TestNoGatewayIsLockedOut follows a relay for 30 years, with gateways that are enrolled every year and keep what they got for
// as long as Overlap.
func TestNoGatewayIsLockedOut(t *testing.T) {
	type gateway struct {
		since    time.Time
		enrolled map[string][]byte
	}
	var gateways []gateway
	current, reasons := must(t, nil, start, ReasonEmpty), map[string]int{}
	for at := start; at.Before(start.Add(30 * year)); at = at.Add(25 * day) {
		var reason string
		var err error
		if current, reason, err = Renew(current, name, at); err != nil {
			t.Fatal(err)
		}
		reasons[reason]++
		if len(gateways) == 0 || at.Sub(gateways[len(gateways)-1].since) >= year {
			gateways = append(gateways, gateway{at, current})
		}
		for _, g := range gateways {
			if at.Sub(g.since) >= Overlap {
				continue
			}
			if err := accepts(t, g.enrolled, current, name, at); err != nil {
				t.Fatalf("at %s, a gateway that was enrolled at %s: %v", at, g.since, err)
			}
		}
	}
	if reasons[ReasonAuthority] < 3 || reasons[ReasonCertificate] < 100 {
		t.Errorf("renewals: %v", reasons)
	}
}

// TestAWrongClockLocksNoGatewayOut renews with a clock that is 20 years ahead, and then with the right one.
func TestAWrongClockLocksNoGatewayOut(t *testing.T) {
	enrolled := must(t, nil, start, ReasonEmpty)
	ahead := must(t, enrolled, start.Add(20*year), ReasonAuthority)
	right := must(t, ahead, start.Add(day), ReasonFuture)
	for what, known := range map[string]map[string][]byte{"before": enrolled, "meanwhile": ahead, "after": right} {
		if err := accepts(t, known, right, name, start.Add(day)); err != nil {
			t.Errorf("a gateway that was enrolled %s: %v", what, err)
		}
	}
}

// TestTheAuthorityIsOnlyForTheRelay issues a certificate for another name with the key of the authority, as its thief could.
func TestTheAuthorityIsOnlyForTheRelay(t *testing.T) {
	content := must(t, nil, start, ReasonEmpty)
	a, _, err := parse(content)
	if err != nil {
		t.Fatal(err)
	}
	const other = "kubernetes.default.svc"
	stolen, err := a.issue(other, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := accepts(t, content, stolen, other, start); err == nil || !strings.Contains(err.Error(), "not permitted by any constraint") {
		t.Errorf("a certificate for %s: %v, want a refusal by the authority's constraint", other, err)
	}
	if err := accepts(t, must(t, nil, start, ReasonEmpty), content, name, start); err == nil {
		t.Error("a gateway accepts the certificate of another authority")
	}
}

func TestDamagedContentIsAnError(t *testing.T) {
	for _, key := range []string{keyCertificate, keyAuthorities, keyAuthorityKey} {
		content := must(t, nil, start, ReasonEmpty)
		content[key] = []byte("damaged")
		if _, _, err := Renew(content, name, start); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: %v", key, err)
		}
	}
}
