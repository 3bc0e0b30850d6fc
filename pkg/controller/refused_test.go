// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// served is a Source with two Mappings.
type served struct{ fakeSource }

func (*served) Snapshot() objects.Snapshot {
	snapshot := objects.Snapshot{Services: []*corev1.Service{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "echo"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}}}
	for i, name := range []string{"good", "bad"} {
		snapshot.Mappings = append(snapshot.Mappings, &v1alpha1.Mapping{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: v1alpha1.MappingSpec{
				Addresses: []string{"198.51.100.10"}, ServiceName: "echo",
				Ports: []v1alpha1.MappingPort{{Port: int32(80 + i), ServicePort: 80, Protocol: "tcp"}},
			},
		})
	}
	return snapshot
}

// refusing is a data plane that refuses the Mapping owner.
type refusing struct {
	fakeDataplane
	owner string
}

func (d *refusing) Apply(ctx context.Context, state gateway.State) (dataplane.Result, error) {
	result, err := d.fakeDataplane.Apply(ctx, state)
	if refused := d.refuse(state); refused != nil {
		return result, refused
	}
	result.InPlace = true
	return result, err
}

func (d *refusing) Try(_ context.Context, state gateway.State) error {
	d.note("try")
	return d.refuse(state)
}

func (d *refusing) refuse(state gateway.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(state.Forwards, func(f *gateway.Forward) bool { return f.Owner == d.owner }) {
		return fmt.Errorf("line 7: no such module\n%w", gateway.ErrRefused)
	}
	return nil
}

// TestAMappingThatIsRefusedIsAFinding expects that a refused Mapping blocks no other, is logged once and is retried after a
// delay.
func TestAMappingThatIsRefusedIsAFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, hook := logtest.NewNullLogger()
		plane, source := &refusing{owner: "shop/bad"}, &served{}
		source.synced.Store(true)
		var mu sync.Mutex
		var last Outcome
		var readys atomic.Int32
		c := New(Options{
			Config: config.Config{Resync: time.Hour, AnyAddress: true}, Host: &fakeHost{}, Dataplane: plane, Log: log,
			Ready:   func() { readys.Add(1) },
			Applied: func(o Outcome) { mu.Lock(); defer mu.Unlock(); last = o },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx, source) }()
		// look returns the owners in effect and the findings.
		look := func() (owners []string, findings []finding.Finding, refused []finding.Refused) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if last.Err != nil {
				t.Errorf("error %v", last.Err)
			}
			for _, forward := range last.Report.State.Forwards {
				owners = append(owners, forward.Owner)
			}
			return owners, last.Report.Findings, last.Report.Refused
		}
		c.Enqueue()
		time.Sleep(5 * time.Second)
		owners, findings, refused := look()
		want := []finding.Finding{{
			Namespace: "shop", Name: "bad", Condition: v1alpha1.ConditionProgrammed, Reason: finding.ReasonRuleRefused, Field: "spec",
			Message: "its rules for IPv4 were refused, will retry: line 7: no such module refused as invalid",
		}}
		if diff := cmp.Diff(want, findings); diff != "" || !slices.Equal(owners, []string{"shop/good"}) || readys.Load() != 1 {
			t.Errorf("ready %d times with %q in effect, findings (-want +got):\n%s", readys.Load(), owners, diff)
		}
		bad := gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.Port(81)}
		if !slices.Equal(refused, []finding.Refused{{Owner: "shop/bad", Frontend: bad, Reason: finding.ReasonRuleRefused}}) {
			t.Errorf("refused: %v", refused)
		}
		told := 0
		for _, line := range hook.AllEntries() {
			if strings.Contains(line.Message, "Mapping shop/bad: spec: its rules for") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("logged %d times, want once", told)
		}
		plane.take()
		plane.mu.Lock()
		plane.owner = ""
		plane.mu.Unlock()
		time.Sleep(50 * time.Second)
		if calls := plane.take(); len(calls) > 0 {
			t.Errorf("calls %q within 50 s, want none", calls)
		}
		time.Sleep(10 * time.Second)
		owners, findings, refused = look()
		if diff := cmp.Diff([]string{"apply", "try", "apply"}, plane.take()); diff != "" || len(findings)+len(refused) > 0 || len(owners) != 2 {
			t.Errorf("in effect %q, findings %q, calls (-want +got):\n%s", owners, findings, diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
