// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// fakePorts reports a number of source ports in use to one backend. Each count takes the time took.
type fakePorts struct {
	mu     sync.Mutex
	inUse  int
	took   time.Duration
	fail   error
	counts int
}

func (p *fakePorts) set(inUse int, took time.Duration, fail error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse, p.took, p.fail, p.counts = inUse, took, fail, 0
}

func (p *fakePorts) counted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

func (p *fakePorts) count([]gateway.LinkAddresses) ([]gateway.SourcePorts, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts++
	time.Sleep(p.took)
	return []gateway.SourcePorts{{Protocol: gateway.UDP, Backend: netip.MustParseAddrPort("10.96.0.10:514"), InUse: p.inUse, Addresses: 1}}, p.fail
}

// syslog is a Source with a Mapping to a ClusterIP.
type syslog struct{ fakeSource }

func (*syslog) Snapshot() objects.Snapshot {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "web"}
	return objects.Snapshot{
		Mappings: []*v1alpha1.Mapping{{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{"198.51.100.10"}, ServiceName: "web", Ports: []v1alpha1.MappingPort{{Port: 514, Protocol: v1alpha1.ProtocolUDP}},
		}}},
		Services: []*corev1.Service{{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, Ports: []corev1.ServicePort{{Port: 514, Protocol: corev1.ProtocolUDP}},
		}}},
	}
}

// TestSourcePortsThatRunOutAreTold uses up to 80 of 100 ports and expects a finding while hardly any is free.
func TestSourcePortsThatRunOutAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ports := &fakePorts{}
		var mu sync.Mutex
		var use PortUse
		var reasons []string
		log, _ := logtest.NewNullLogger()
		c := New(Options{
			Config: config.Config{
				Resync: time.Hour, AnyAddress: true, Masquerade: true, BackendNetworks: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
				MasqueradePorts: config.SourcePorts{PortRange: gateway.PortRange{First: 2000, Last: 2099}},
			},
			Host: &fakeHost{}, Dataplane: &fakeDataplane{}, Log: log, Ready: func() {},
			CountSourcePorts: ports.count,
			PortsCounted:     func(u PortUse) { mu.Lock(); defer mu.Unlock(); use = u },
			Applied: func(out Outcome) {
				mu.Lock()
				defer mu.Unlock()
				reasons = nil
				for _, found := range out.Report.Findings {
					reasons = append(reasons, found.Namespace+"/"+found.Name+" "+found.Reason)
				}
			},
		})
		source := &syslog{}
		source.synced.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx, source) }()
		for _, step := range []struct {
			inUse int
			took  time.Duration
			fail  error
			want  PortUse
			// finds means that there is a finding after the count.
			finds bool
			// counts is the expected number of counts within a minute, give or take one.
			counts int
		}{
			{79, 0, nil, PortUse{Fullest: 0.79}, false, 6},
			{80, 0, nil, PortUse{Fullest: 0.80, Short: 1}, true, 6},
			{0, 0, errors.New("no netlink"), PortUse{Fullest: 0.80, Short: 1}, true, 6},
			{71, 0, nil, PortUse{Fullest: 0.71, Short: 1}, true, 6},
			{69, 0, nil, PortUse{Fullest: 0.69}, false, 6},
			{69, 600 * time.Millisecond, nil, PortUse{Fullest: 0.69}, false, 1},
		} {
			ports.set(step.inUse, step.took, step.fail)
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			if diff := cmp.Diff(step.want, use); diff != "" {
				t.Errorf("%d in use, PortUse (-want +got):\n%s", step.inUse, diff)
			}
			var want []string
			if step.finds {
				want = []string{"default/web " + finding.ReasonSourcePortsLow}
			}
			if diff := cmp.Diff(want, reasons); diff != "" {
				t.Errorf("%d in use, findings (-want +got):\n%s", step.inUse, diff)
			}
			mu.Unlock()
			if n := ports.counted(); n < step.counts-1 || n > step.counts+1 {
				t.Errorf("%d counts of %s each within a minute, want about %d", n, step.took, step.counts)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
