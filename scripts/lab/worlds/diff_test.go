// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestDiff expects that smartnatd diff finds nothing in a kernel that smartnatd programmed, says what a manifest would change, and
// changes nothing.
func TestDiff(t *testing.T) {
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		web := service(t, "web", []string{"80:8080/TCP"}, p1, p2)
		before := mapping("web", "web", `addresses: [198.51.100.10], ports: [{port: 80}]`)
		after := mapping("web", "web", `addresses: [198.51.100.10], ports: [{port: 80}, {port: 81, servicePort: 80}]`)
		w.objects(t, web, before)
		w.start(t, twoUplinks)
		diff := func(wantCode bool, says []string, args ...string) {
			t.Helper()
			output, err := w.Smartnatd(timeout(t, patience), append([]string{"diff"}, args...)...)
			if (err != nil) != wantCode {
				t.Errorf("smartnatd diff %v: %v\n%s", args, err, output)
			}
			for _, text := range says {
				if !strings.Contains(output, text) {
					t.Errorf("smartnatd diff %v says nothing of %q:\n%s", args, text, output)
				}
			}
			t.Log(output)
		}
		diff(false, []string{"no differences"})

		const manifest = "/etc/smartnat/manifest.yaml"
		if err := w.Host(lab.Gateway).WriteFile(manifest, before); err != nil {
			t.Fatal(err)
		}
		diff(false, []string{"no differences"}, "-f", manifest)
		if err := w.Host(lab.Gateway).WriteFile(manifest, after); err != nil {
			t.Fatal(err)
		}
		held := w.ruleset(t)
		diff(true, []string{
			"Mapping default/web would change", "+ 198.51.100.10:81/tcp -> 10.244.1.2:8080, 10.244.2.2:8080", "things would change in the kernel", "  Mapping default/web\n",
		}, "-f", manifest)
		if diff := cmp.Diff(held, w.ruleset(t)); diff != "" {
			t.Errorf("diff -f changes the kernel (-before +after):\n%s", diff)
		}
		if _, err := w.ask(t.Context(), lab.Client, "tcp", "198.51.100.10:81"); err == nil {
			t.Error("diff -f opens the port")
		}
		w.objects(t, web, after)
		w.await(t, lab.Client, "tcp", "198.51.100.10:81", nil)
		diff(false, []string{"no differences"}, "-f", manifest)
		w.stop(t)
		diff(true, []string{"no smartnatd runs with this config"})
	})
}

// ruleset returns the rules of all data planes, without counters, and the ip rules.
func (w *world) ruleset(t *testing.T) string {
	t.Helper()
	all := w.gateway(t, "nft --stateless list ruleset") + w.gateway(t, "ip rule")
	for line := range strings.Lines(w.gateway(t, "iptables-legacy-save -t nat")) {
		if !strings.HasPrefix(line, "#") { // the time
			all += line
		}
	}
	return all
}
