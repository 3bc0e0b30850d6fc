// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func grantYAML(spec string) string {
	return fmt.Sprintf("apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: PortGrant\nmetadata: {name: lab}\nspec: {%s}\n", spec)
}

// testGrants checks that a PortGrant closes its addresses for other namespaces, within a second and for established connections too, that
// a label opens them again, and that each step is in the status.
func testGrants(t *testing.T, w *world) {
	w.namespace(t, "granted", 1)
	w.mapping(t, "granted", `addresses: [198.51.100.13, "2001:db8:1::13"], serviceName: echo, mode: endpoints,
		ports: [{port: 2200, servicePort: 8080}, {port: 2200, servicePort: 8080, protocol: udp}]`)
	const addresses = `addresses: [198.51.100.13, "2001:db8:1::/64"], ports: [{port: 2200}], `
	t.Cleanup(func() { w.kubectl(t, "delete", "portgrant", "lab", "--ignore-not-found") })
	for _, address := range externals("13", 2200) {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
		}
	}
	tcp, udp := w.flow(t, lab.Client, "tcp", externals("13", 2200)[0]), w.flow(t, lab.Client, "udp", externals("13", 2200)[1])
	say(t, tcp)
	say(t, udp)

	started := time.Now()
	w.apply(t, grantYAML(addresses+`namespaces: [other]`))
	awaitFlow(t, tcp, "to end", failed)
	awaitFlow(t, udp, "to end", failed)
	t.Logf("connections ended %v after the PortGrant was applied", time.Since(started).Round(time.Millisecond))
	for _, address := range externals("13", 2200) {
		w.awaitEnd(t, lab.Client, "tcp", address)
	}
	w.awaitStatus(t, "granted", "echo", "Accepted False NotGranted", "198.51.100.13:2200/tcp is refused: namespace granted has no PortGrant for 198.51.100.13")

	w.apply(t, grantYAML(addresses+`namespaceSelector: {matchLabels: {ports: lab}}`))
	w.kubectl(t, "label", "namespace", "granted", "ports=lab")
	for _, address := range externals("13", 2200) {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
		}
	}
	w.awaitStatus(t, "granted", "echo", "Accepted True Accepted")

	w.kubectl(t, "label", "namespace", "granted", "ports-")
	w.awaitEnd(t, lab.Client, "udp", externals("13", 2200)[0])
	w.kubectl(t, "delete", "portgrant", "lab")
	w.await(t, lab.Client, "udp", externals("13", 2200)[0], nil)
	// The admission policy learns it too, later than the gateway. Other scenes use the address.
	another := mappingYAML("granted", "another", `addresses: [198.51.100.13], serviceName: echo, ports: [{port: 2201, servicePort: 8080}]`)
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error { return w.Apply(ctx, another) }); err != nil {
		t.Fatal(err)
	}
}
