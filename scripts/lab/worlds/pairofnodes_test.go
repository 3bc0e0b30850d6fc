// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestPairOfNodes has two nodes of the cluster as a pair: mode service leads to endpoints on both, and established connections to pods of other
// nodes move when a node of the pair dies in silence.
func TestPairOfNodes(t *testing.T) {
	w := newWorld(t, "nf_tables")
	w.dataplane = "dataplane: nftables\n"
	first, second := newPair(t, w, "")
	for _, b := range []*lab.Box{first, second} {
		// The table by which smartnatd knows kube-proxy.
		if _, err := w.Host(b.Host).Exec(timeout(t, patience), "nft", "add table ip kube-proxy"); err != nil {
			t.Fatal(err)
		}
		objects := strings.Join([]string{
			service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1, p2),
			strings.ReplaceAll(mapping("echo", "echo", fmt.Sprintf(`addresses: [%s, "%s"], ports: [{port: 8080}, {port: 8080, protocol: UDP}]`,
				lab.VirtualExternal, lab.VirtualExternalv6)), "mode: endpoints", "mode: service"),
		}, "\n---\n")
		if err := w.Host(b.Host).WriteFile(objectsFile, objects); err != nil {
			t.Fatal(err)
		}
		if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
			output, err := w.SmartnatdOn(ctx, b.Host, "check")
			if !strings.Contains(output, "ResolvedToEndpoints") {
				return fmt.Errorf("%s does not resolve the Service to endpoints: %w: %s", b.Host, err, output)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	awaitFit(t, first, second)
	w.silence(t, "a node dies in silence", first, second, lab.PairLinks()...)
}
