// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/scripts/lab"
)

// clusterFaults returns faults of the cluster, and its churn. Traffic must not notice any of them.
func clusterFaults() []fault {
	return []fault{
		{name: "relay killed", changes: true, quick: true, inject: killRelays},
		{name: "relay stopped", changes: true, inject: stopRelays},
		// Long enough for smartnatd to give up silent connections.
		{name: "relay's packets dropped", changes: true, slow: 4, inject: dropRelays},
		{name: "kube-apiserver killed", inject: killControlPlane("kube-apiserver")},
		{name: "etcd killed", inject: killControlPlane("etcd")},
		{name: "endpoint flaps", churn: true, quick: true, inject: flapEndpoint},
		{name: "Mappings in bulk", churn: true, inject: bulkMappings},
	}
}

// chosenRelays returns the first relay, the second or both.
func (w *world) chosenRelays(s step) (string, []*lab.Process) {
	if n := s.Pick % 3; n < 2 {
		return []string{"the first", "the second"}[n], w.relays[n : n+1]
	}
	return "both", w.relays
}

func killRelays(_ context.Context, w *world, s step) (injury, error) {
	variant, relays := w.chosenRelays(s)
	var errs []error
	for _, relay := range relays {
		errs = append(errs, relay.Kill())
	}
	return injury{variant: variant, heal: func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, relay := range relays {
			group.Go(func() error { return relay.Restart(ctx) })
		}
		return group.Wait()
	}}, errors.Join(errs...)
}

func stopRelays(_ context.Context, w *world, s step) (injury, error) {
	variant, relays := w.chosenRelays(s)
	signal := func(signal unix.Signal) error {
		var errs []error
		for _, relay := range relays {
			errs = append(errs, relay.Signal(signal))
		}
		return errors.Join(errs...)
	}
	return injury{variant: variant, heal: func(context.Context) error { return signal(unix.SIGCONT) }}, signal(unix.SIGSTOP)
}

// dropRelays makes the network drop packets to the relays: connections are neither refused nor answered.
func dropRelays(ctx context.Context, w *world, s step) (injury, error) {
	nodes, variant := []string{lab.Node1, lab.Node2}, "both"
	if n := s.Pick % 3; n < 2 {
		nodes, variant = nodes[n:n+1], []string{"the first", "the second"}[n]
	}
	return injury{variant: variant, heal: func(ctx context.Context) error { return w.swallow(ctx, "-D", nodes) }}, w.swallow(ctx, "-I", nodes)
}

// swallow makes nodes drop packets to their relays (-I), or stop doing so (-D).
func (w *world) swallow(ctx context.Context, verb string, nodes []string) error {
	var errs []error
	for _, node := range nodes {
		_, err := w.Host(node).Exec(ctx, "iptables", "-t", "raw", verb, "PREROUTING", "-p", "tcp", "--dport", "8443", "-j", "DROP")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func killControlPlane(name string) func(context.Context, *world, step) (injury, error) {
	return func(_ context.Context, w *world, _ step) (injury, error) {
		program := w.Process(name)
		return injury{variant: "kill -9", heal: func(ctx context.Context) error {
			return errors.Join(program.Restart(ctx), w.controlPlaneReady(ctx))
		}}, program.Kill()
	}
}

// controlPlaneReady waits until the API server is ready.
func (w *world) controlPlaneReady(ctx context.Context) error {
	return poll(ctx, func(ctx context.Context) error {
		return w.Kube().Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).Do(ctx).Error()
	})
}

// flapEndpoint switches one of two endpoints between ready and not ready, up to 50 times per second. It writes as the controller of
// EndpointSlices, while the real controller writes the true state.
func flapEndpoint(ctx context.Context, w *world, s step) (injury, error) {
	controller, err := w.EndpointSliceController()
	if err != nil {
		return injury{}, err
	}
	client := controller.DiscoveryV1().EndpointSlices(namespace)
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=flapping"})
	if err != nil {
		return injury{}, err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	changes := 0
	for end := time.Now().Add(s.Hold); changes%2 == 1 || time.Now().Before(end); changes++ {
		<-ticker.C
		for _, slice := range list.Items {
			i := slices.IndexFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool { return e.TargetRef.Name == "flapping-1" })
			patch := fmt.Sprintf(`[{"op": "replace", "path": "/endpoints/%d/conditions/ready", "value": %t}]`, i, changes%2 == 1)
			if _, err := client.Patch(ctx, slice.Name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				return injury{}, fmt.Errorf("changing the flapping endpoint: %w", err)
			}
		}
	}
	return injury{variant: fmt.Sprintf("%d times in %v", changes, milliseconds(s.Hold))}, nil
}

// bulkMappings creates many Mappings at once, and deletes them later.
func bulkMappings(ctx context.Context, w *world, s step) (injury, error) {
	count := 20 + int(s.Pick%180)
	client := w.smartnat.SmartnatV1alpha1().Mappings(namespace)
	group, making := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range count {
		m := &v1alpha1.Mapping{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bulk-%d", i), Labels: map[string]string{"bulk": ""}},
			Spec:       v1alpha1.MappingSpec{Addresses: externals, ServiceName: "steady", Mode: v1alpha1.ModeEndpoints},
		}
		for port := range int32(5) {
			m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: 30000 + 5*int32(i) + port, ServicePort: 8080})
		}
		group.Go(func() error {
			_, err := client.Create(making, m, metav1.CreateOptions{})
			return err
		})
	}
	return injury{variant: fmt.Sprintf("%d of 5 ports and 4 addresses", count), heal: func(ctx context.Context) error {
		return client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bulk"})
	}}, group.Wait()
}
