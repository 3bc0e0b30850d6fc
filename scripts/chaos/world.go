// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/scripts/lab"
)

// world is a lab with everything in it: two relays, smartnatd, pods and Mappings.
type world struct {
	*lab.Lab
	plane    plane
	smartnat versioned.Interface
	relays   []*lab.Process
	daemon   *lab.Process
	// services are the ClusterIPs of the Service "steady", pods the addresses of one of its pods, and endpoints those of all
	// pods.
	services, pods, endpoints []string
	// canary is the index of the canary's current port, and desired the desired state of the kernel with each port.
	canary  int
	desired [2]string
}

// config returns the lab's config with both relays, and without the gateways of the first uplink: its default routes name them.
func (w *world) config() string {
	one := `servers: ["https://` + lab.Node1Address + `:8443"`
	return strings.NewReplacer(one, one+`, "https://`+lab.Node2Address+`:8443"`, `, gateways: [198.51.100.1, "2001:db8:1::1"]`, "").Replace(lab.DualStackConfig) + w.plane.config()
}

func newWorld(ctx context.Context, p plan) (*world, error) {
	l, err := lab.Start(ctx, lab.WithVariant(p.Variant))
	if err != nil {
		return nil, err
	}
	w := &world{Lab: l, plane: p.plane()}
	if err := w.furnish(ctx); err != nil {
		return nil, errors.Join(err, fmt.Errorf("%s", l.Logs()), l.Stop())
	}
	return w, nil
}

// furnish sets up everything that exists before the first fault.
func (w *world) furnish(ctx context.Context) (err error) {
	for _, node := range []string{lab.Node1, lab.Node2} {
		relay, err := w.StartRelayOn(ctx, node, "--metrics-bind-address="+relayMetrics)
		if err != nil {
			return err
		}
		w.relays = append(w.relays, relay)
	}
	rest := w.RESTConfig()
	rest.QPS = -1
	if w.smartnat, err = versioned.NewForConfig(rest); err != nil {
		return err
	}
	// Without a default route, rp_filter (even a loose one) makes the kernel treat packets from the other uplink as forged.
	if err := w.on(ctx, "ip -4 route add default via 203.0.113.1 metric 1000; ip -6 route add default via 2001:db8:2::1 metric 2000"); err != nil {
		return err
	}
	if err := errors.Join(w.GrantGateway(ctx), w.CreateNamespace(ctx, namespace), w.plane.prepare(ctx, w)); err != nil {
		return err
	}
	for _, app := range []string{"steady", "flapping"} {
		for i, node := range []string{lab.Node1, lab.Node2} {
			pod := lab.Pod{Namespace: namespace, Name: fmt.Sprintf("%s-%d", app, i), Node: node, Labels: map[string]string{"app": app}}
			if _, err := w.AddPod(ctx, pod); err != nil {
				return err
			}
		}
	}
	if err := w.Apply(ctx, objects()); err != nil {
		return err
	}
	if w.daemon, err = w.StartGateway(ctx, w.config()); err != nil {
		return err
	}
	if err := errors.Join(w.findInside(ctx), w.reachable(ctx)); err != nil {
		return err
	}
	// Learn the second port first, so that the first is in effect afterwards.
	for range canaryPorts {
		if err := errors.Join(w.toggle(ctx), w.learn(ctx)); err != nil {
			return err
		}
	}
	return w.countAtNodes(ctx)
}

// reachable waits until every path of the traffic leads to a pod.
func (w *world) reachable(ctx context.Context) error {
	for _, port := range []uint16{endpointsPort, servicePort, flappingPort} {
		for _, address := range join(port) {
			if err := lab.Poll(ctx, func(ctx context.Context) error {
				_, err := w.Host(lab.Client).EchoTCP(ctx, address)
				return err
			}); err != nil {
				return fmt.Errorf("before the first fault: %w", err)
			}
		}
	}
	return nil
}

// toggle gives the canary its other port.
func (w *world) toggle(ctx context.Context) error {
	next := 1 - w.canary
	patch := fmt.Sprintf(`{"spec":{"ports":[{"port":%d,"servicePort":8080}]}}`, canaryPorts[next])
	_, err := w.smartnat.SmartnatV1alpha1().Mappings(namespace).Patch(ctx, "canary", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("changing the canary: %w", err)
	}
	w.canary = next
	return nil
}

// findInside learns the addresses that outside clients may reach only through a Mapping.
func (w *world) findInside(ctx context.Context) error {
	service, err := w.Kube().CoreV1().Services(namespace).Get(ctx, "steady", metav1.GetOptions{})
	if err != nil {
		return err
	}
	w.services = service.Spec.ClusterIPs
	pods, err := w.Kube().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		for _, ip := range pod.Status.PodIPs {
			w.endpoints = append(w.endpoints, ip.IP)
			if pod.Name == "steady-1" {
				w.pods = append(w.pods, ip.IP)
			}
		}
	}
	if len(w.services) != 2 || len(w.pods) != 2 {
		return fmt.Errorf("the cluster is not dual stack: ClusterIPs %v, pod IPs %v", w.services, w.pods)
	}
	return nil
}
