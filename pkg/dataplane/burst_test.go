// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// The size of the burst. For the figures of a large one: -burst.ports 10000 -burst.changes 10000 -burst.over 60s
var (
	burstPorts   = flag.Int("burst.ports", 500, "how many ports there are")
	burstChanges = flag.Int("burst.changes", 1000, "how many endpoints change")
	burstOver    = flag.Duration("burst.over", 2*time.Second, "how long the burst takes")
)

// cluster is a Source whose changes the test controls.
type cluster struct {
	mu       sync.Mutex
	snapshot objects.Snapshot
	// version counts the changes. seen is the version of the last Snapshot.
	version, seen int
	// inEffect holds the version in effect after each Apply.
	inEffect []int
}

func (*cluster) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (*cluster) HasSynced() bool               { return true }
func (c *cluster) Snapshot() objects.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = c.version
	s := c.snapshot
	s.EndpointSlices = slices.Clone(s.EndpointSlices)
	return s
}

// newCluster returns a cluster with Mappings of ten ports each.
func newCluster(ports int) *cluster {
	c := &cluster{}
	for i := range ports / 10 {
		meta := metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("echo-%d", i)}
		m := &v1alpha1.Mapping{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{"198.51.100.10"}, ServiceName: meta.Name, Mode: v1alpha1.ModeEndpoints,
		}}
		for p := range 10 {
			m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: int32(1 + 10*i + p), ServicePort: 80, Protocol: "tcp"})
		}
		c.snapshot.Mappings = append(c.snapshot.Mappings, m)
		c.snapshot.Services = append(c.snapshot.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		}})
		c.snapshot.EndpointSlices = append(c.snapshot.EndpointSlices, endpoints(meta, 0))
	}
	return c
}

// endpoints returns three endpoints, of which one depends on the version.
func endpoints(service metav1.ObjectMeta, version int) *discoveryv1.EndpointSlice {
	port, protocol, name := int32(8080), corev1.ProtocolTCP, ""
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service.Name, Labels: map[string]string{discoveryv1.LabelServiceName: service.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	for _, address := range []netip.Addr{addr("10.244.0.1"), addr("10.244.0.2"), netip.AddrFrom4([4]byte{10, 245, byte(version >> 8), byte(version)})} {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address.String()}})
	}
	return slice
}

// change replaces an endpoint of a Service. It returns the number of changes so far, and of the Applies that ended before it.
func (c *cluster) change() (version, applies int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	i := c.version % len(c.snapshot.Mappings)
	c.snapshot.EndpointSlices[i] = endpoints(c.snapshot.Mappings[i].ObjectMeta, c.version)
	return c.version, len(c.inEffect)
}

// applied records that an Apply of the last Snapshot ended.
func (c *cluster) applied() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inEffect = append(c.inEffect, c.seen)
}

// last returns the version in effect.
func (c *cluster) last() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.inEffect) == 0 {
		return -1
	}
	return c.inEffect[len(c.inEffect)-1]
}

// stillHost is a host that never changes.
type stillHost struct{}

func (stillHost) Listeners() ([]gateway.Listener, error)    { return nil, nil }
func (stillHost) OtherRules() (gateway.OtherRules, error)   { return gateway.OtherRules{}, nil }
func (stillHost) Observe() (gateway.Host, error)            { return gateway.Host{}, nil }
func (stillHost) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

// batches records the Applies of a worker, which makes them one after the other.
type batches struct {
	*dataplane.Dataplane
	source *cluster
	took   []time.Duration
}

func (b *batches) Apply(ctx context.Context, state gateway.State) (dataplane.Result, error) {
	began := time.Now()
	result, err := b.Dataplane.Apply(ctx, state)
	b.took = append(b.took, time.Since(began))
	b.source.applied()
	return result, err
}

// TestKernelBurst changes endpoints faster than the kernel can be written. Each Apply must write all changes that came during
// the Apply before it.
func TestKernelBurst(t *testing.T) {
	// The worker writes from threads of the Go runtime. All of them are in the namespaces in which the tests started.
	testenv.RequireKernel(t)
	for _, row := range backends {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t, row.new(t))
			source := newCluster(*burstPorts)
			plane := &batches{Dataplane: h.start(), source: source}
			log, hook := logtest.NewNullLogger()
			log.SetLevel(logrus.WarnLevel)
			cfg := config.Default()
			cfg.AnyAddress = true
			ready := make(chan struct{})
			control := controller.New(controller.Options{Config: cfg, Host: stillHost{}, Dataplane: plane, Log: log, Ready: func() { close(ready) }})
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- control.Run(ctx, source) }()
			<-ready
			begun, before := make([]int, *burstChanges+1), h.execs()
			for ticker, n := time.NewTicker(*burstOver/time.Duration(*burstChanges)), 0; n < *burstChanges; {
				<-ticker.C
				var applies int
				n, applies = source.change()
				begun[n] = applies
				control.Enqueue()
			}
			last := time.Now()
			for inEffect := source.last(); inEffect < *burstChanges; inEffect = source.last() {
				if time.Since(last) > time.Minute {
					t.Fatalf("%d of %d changes are in effect", inEffect, *burstChanges)
				}
				time.Sleep(time.Millisecond)
			}
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			// A change takes effect with the Apply that runs when it comes, or with the next one.
			for n := 1; n <= *burstChanges; n++ {
				if at := slices.IndexFunc(source.inEffect, func(seen int) bool { return seen >= n }); at > begun[n]+1 {
					t.Fatalf("change %d came after Apply %d, in effect with Apply %d", n, begun[n], at+1)
				}
			}
			t.Logf("%d changes of %d ports in %v: %d applies, the longest %v, %d executions; last change in effect after %v",
				*burstChanges, *burstPorts, *burstOver, len(plane.took)-1, slices.Max(plane.took[1:]), h.execs()-before, time.Since(last))
			if execs := h.execs() - before; execs > int64(len(plane.took)-1) {
				t.Errorf("%d executions, want at most one for each Apply", execs)
			}
			for _, line := range hook.AllEntries() {
				t.Errorf("%s: %v", line.Message, line.Data)
			}
			state, _ := calc.Calculate(source.Snapshot(), gateway.Host{}, cfg)
			fresh := h.start()
			if result := apply(t, fresh, state); !result.Empty() {
				t.Errorf("a restart changes %s", result)
			}
			if _, err := fresh.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
