// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/scripts/lab"
)

// daemonSet runs the manifests as they are: the rights of the ServiceAccount, a root without any other program that nothing can write
// to, kernel parameters that are read-only, and two capabilities.
func (w *inCluster) daemonSet(t *testing.T) {
	ctx := timeout(t, time.Minute)
	for _, apply := range []func(context.Context) (string, error){w.ApplyRelay, w.ApplyNodes} {
		if output, err := apply(ctx); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	node := clusterNodes()[0]
	clients := [2]string{lab.GatewayAddress, lab.GatewayAddress6}
	for _, hop := range clients {
		if _, err := w.Host(node.name).Exec(ctx, "ip", "route", "replace", "default", "via", hop, "dev", "eth0"); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if w.daemon, err = w.RunNodePod(ctx, node.name); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.daemon.Stop(timeout(t, patience)); err != nil {
			t.Error(err)
		}
		if _, err := w.SmartnatdOn(timeout(t, patience), node.name, "cleanup", "--config", "/etc/smartnat/smartnat.yaml"); err != nil {
			t.Error(err)
		}
	}()
	for family, address := range node.address {
		for _, pod := range []string{node.local, node.remote} {
			w.await(t, lab.Gateway, "tcp", lab.Join(address, 8082), func(a lab.Answer) bool { return a.Pod == pod })
		}
		w.awaitSource(t, lab.Gateway, "tcp", lab.Join(address, 8083), node.local, clients[family])
		w.awaitSource(t, lab.Gateway, "tcp", lab.Join(address, 8083), node.remote, address)
	}
	// It reports in the name of its node, and holds a Lease.
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		instances, err := w.Kubectl(ctx, "get", "mapping", "service", "-n", "inside", "-o", "jsonpath={.status.instances[*].name}")
		if err != nil || !strings.Contains(instances, node.name) {
			return fmt.Errorf("instances %q: %w", instances, err)
		}
		warnings, err := w.Kubectl(ctx, "get", "mapping", "kept", "-n", "inside", "-o", "jsonpath={.status.instances[*]}")
		if err != nil || !strings.Contains(warnings, "false keeps the clients' addresses only for pods of this node") {
			return fmt.Errorf("the status says %q: %w", warnings, err)
		}
		leases, err := w.Kubectl(ctx, "get", "leases", "-n", "smartnat", "-o", "jsonpath={.items[*].metadata.name}")
		if err != nil || !strings.Contains(leases, node.name) {
			return fmt.Errorf("leases %q: %w", leases, err)
		}
		return nil
	}); err != nil {
		t.Errorf("%v\n%s", err, tail(w.daemon.Log()))
	}
	for line := range strings.Lines(w.daemon.Log()) {
		if strings.Contains(line, "level=error") || strings.Contains(line, "forbidden") {
			t.Errorf("the pod logs %s", line)
		}
	}
}

// readsFromRelay runs smartnatd on a node that learns from a relay which pods are on it, once its enrollment says that it is a node. It
// is not restarted for that.
func (w *inCluster) readsFromRelay(t *testing.T) {
	ctx := timeout(t, time.Minute)
	node := clusterNodes()[0]
	relay, err := w.StartRelayOn(ctx, lab.Node2)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.GrantGatewayOn(ctx, node.name, "edge-1"); err != nil {
		t.Fatal(err)
	}
	source := strings.ReplaceAll(lab.RelaySource, lab.Node1Address, lab.Node2Address)
	w.start(t, node, fmt.Sprintf("instance: edge-1\nnode: %s\n%suplinks: [{interface: eth1, gateways: [198.51.100.1]}]\n", node.name, source))
	kept := lab.Join(node.external[0], 8083)
	w.awaitSource(t, lab.Client, "tcp", kept, node.local, "10.244.1.1") // of the node on the link to the pod
	output, _ := w.SmartnatdOn(ctx, node.name, "check")
	if want := "run 'kubectl smartnat enroll GATEWAY --node " + node.name + "'"; !strings.Contains(output, want) {
		t.Errorf("explain does not say %q:\n%s", want, output)
	}
	if _, err := w.Kubectl(ctx, "annotate", "serviceaccount", "edge-1", "--namespace=smartnat", v1alpha1.NodeAnnotation+"="+node.name); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", kept, func(a lab.Answer) bool {
		return a.Pod == node.local && a.Client.Addr().String() == lab.ClientAddress
	})
	w.awaitSource(t, lab.Client, "tcp", kept, node.remote, node.address[0])
	if err := relay.Stop(ctx); err != nil {
		t.Error(err)
	}
}
