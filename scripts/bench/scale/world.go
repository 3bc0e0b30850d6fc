// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// gatewayNode is the name of kube-proxy's Node on the gateway.
const gatewayNode = "gateway"

// writers is the number of concurrent writers that create objects.
const writers = 16

// world is a lab with an API server, its objects, and nodes that answer for all pods.
type world struct {
	*lab.Lab
	scenery
	config   *rest.Config
	core     kubernetes.Interface
	mappings versioned.Interface
	relay    *lab.Process
	objects  int
	changes  int
}

func newWorld(ctx context.Context, s scenery) (*world, error) {
	l, err := lab.Start(ctx, lab.WithAPIServerAlone())
	if err != nil {
		return nil, err
	}
	w := &world{Lab: l, scenery: s, config: l.RESTConfig()}
	w.config.WarningHandler = rest.NoWarnings{} // externalIPs are deprecated
	if err := w.furnish(ctx); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return w, nil
}

func (w *world) furnish(ctx context.Context) (err error) {
	if w.core, err = kubernetes.NewForConfig(protobuf(w.config)); err != nil {
		return err
	}
	if w.mappings, err = versioned.NewForConfig(w.config); err != nil {
		return err
	}
	if err := ways.Add(ctx, w.Lab, "legacy"); err != nil {
		return fmt.Errorf("adding the routing hosts: %w", err)
	}
	for _, name := range []string{lab.Node1, lab.Node2} {
		if err := w.furnishNode(ctx, w.Host(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: gatewayNode},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: lab.GatewayAddress}, {Type: corev1.NodeInternalIP, Address: lab.GatewayAddress6}}},
	}
	if _, err := w.core.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating node %s: %w", gatewayNode, err)
	}
	if err := w.ApplyCRDs(ctx); err != nil {
		return err
	}
	return w.addTenants(ctx)
}

// addTenants creates the further namespaces with their PortGrants, and the PortGrant of the Mappings.
func (w *world) addTenants(ctx context.Context) error {
	if w.Tenants == 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for number := range w.Tenants {
		group.Go(func() error {
			tenant := tenant(number)
			if _, err := w.core.CoreV1().Namespaces().Create(ctx, tenant, metav1.CreateOptions{}); err != nil {
				return err
			}
			return w.addGrant(ctx, tenant.Name)
		})
	}
	group.Go(func() error { return w.addGrant(ctx, namespace) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("creating %d namespaces with PortGrants: %w", w.Tenants, err)
	}
	return nil
}

func (w *world) addGrant(ctx context.Context, name string) error {
	_, err := w.mappings.SmartnatV1alpha1().PortGrants().Create(ctx, grant(name), metav1.CreateOptions{})
	return err
}

// furnishNode makes a node answer for all its pods and, as its kube-proxy would, for all ClusterIPs.
func (w *world) furnishNode(ctx context.Context, node *lab.Host) error {
	var plain, named []uint16
	for k := range ways.PortsPerMapping {
		plain, named = append(plain, uint16(ways.FirstTarget+k)), append(named, uint16(watchedPorts+k))
	}
	if err := errors.Join(load.Serve(node, plain), load.ServeName(node, named)); err != nil {
		return err
	}
	if w.Mode != "service" {
		return nil
	}
	network, program := lab.ServiceNetwork, "iptables"
	if w.Family == "IPv6" {
		network, program = lab.ServiceNetwork6, "ip6tables"
	}
	return ways.Exec(ctx, node, "ip route add local "+network+" dev lo",
		fmt.Sprintf("%s -t nat -A PREROUTING -d %s -p tcp -j REDIRECT --to-ports %d", program, network, ways.FirstTarget))
}

func protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	return config
}

// populate creates the missing objects for a number of ports.
func (w *world) populate(ctx context.Context, ports int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for ; w.objects*ways.PortsPerMapping < ports; w.objects++ {
		object := w.objects
		group.Go(func() error { return w.create(ctx, object) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("creating objects for %d ports: %w", ports, err)
	}
	return nil
}

func (w *world) create(ctx context.Context, object int) error {
	_, err := w.core.CoreV1().Services(namespace).Create(ctx, w.service(object), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if _, err = w.core.DiscoveryV1().EndpointSlices(namespace).Create(ctx, w.slice(object), metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err = w.mappings.SmartnatV1alpha1().Mappings(namespace).Create(ctx, w.mapping(object), metav1.CreateOptions{})
	return err
}

// moveEndpoint moves the watched endpoint and returns the time of the API server's response and the new address.
func (w *world) moveEndpoint(ctx context.Context) (answered time.Time, now netip.Addr, err error) {
	now = w.watchedEndpoint(w.changes + 1)
	patch := fmt.Sprintf(`[{"op":"replace","path":"/endpoints/0/addresses/0","value":%q}]`, now)
	_, err = w.core.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, objectName(watched), types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	answered = time.Now()
	if err != nil {
		return answered, now, fmt.Errorf("moving the watched endpoint to %s: %w", now, err)
	}
	w.changes++
	return answered, now, nil
}

// settle waits until the control plane and the relay, if any, are nearly idle. After thousands of new objects that takes
// seconds, in which they would take processor time from the contender.
func (w *world) settle(ctx context.Context) error {
	processes := []*lab.Process{w.Process("etcd"), w.Process("kube-apiserver")}
	if w.relay != nil {
		processes = append(processes, w.relay)
	}
	used := func() (all time.Duration, err error) {
		for _, p := range processes {
			one, err := process.Time(p.PID())
			if err != nil {
				return 0, err
			}
			all += one
		}
		return all, nil
	}
	return process.Settle(ctx, used, 10*process.Tick, 2*settleTime)
}
