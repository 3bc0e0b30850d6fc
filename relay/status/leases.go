// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// renewEvery is the shortest interval between renewals of a Lease: gateways report more often than necessary for it.
const renewEvery = time.Minute

// LeaseClient reads and writes the Leases of a namespace.
type LeaseClient interface {
	List(ctx context.Context, options metav1.ListOptions) (*coordinationv1.LeaseList, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
	Patch(ctx context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*coordinationv1.Lease, error)
}

// Leases record when gateways were last heard of. Relays, and gateways with direct access to the cluster, share that
// information through them.
type Leases struct {
	client    LeaseClient
	namespace string
	duration  time.Duration
	now       func() time.Time

	mu      sync.Mutex
	renewed map[string]time.Time
}

// NewLeases returns the Leases of a namespace, which must be that of the client. A gateway whose Lease is not renewed for the
// duration is gone.
func NewLeases(client LeaseClient, namespace string, duration time.Duration) *Leases {
	return &Leases{client: client, namespace: namespace, duration: duration, now: time.Now, renewed: map[string]time.Time{}}
}

// Renew records that a gateway was heard of.
func (l *Leases) Renew(ctx context.Context, instance string) error {
	now := l.now()
	l.mu.Lock()
	last := l.renewed[instance]
	due := now.Sub(last) >= min(renewEvery, l.duration/4)
	if due {
		l.renewed[instance] = now
	}
	l.mu.Unlock()
	if !due {
		return nil
	}
	name := v1alpha1.LeaseNamePrefix + instance
	if err := l.apply(ctx, name, instance, now); err != nil {
		l.mu.Lock()
		l.renewed[instance] = last
		l.mu.Unlock()
		return fmt.Errorf("renewing Lease %s/%s: %w", l.namespace, name, err)
	}
	return nil
}

func (l *Leases) apply(ctx context.Context, name, instance string, now time.Time) error {
	seconds, renewed, force := int32(l.duration.Seconds()), metav1.NewMicroTime(now), true
	body, err := json.Marshal(&coordinationv1.Lease{
		TypeMeta: metav1.TypeMeta{APIVersion: coordinationv1.SchemeGroupVersion.String(), Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: l.namespace, Name: name, Labels: map[string]string{v1alpha1.LeaseLabel: v1alpha1.LeaseLabelValue},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &instance, LeaseDurationSeconds: &seconds, RenewTime: &renewed},
	})
	if err != nil {
		return err
	}
	_, err = l.client.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: v1alpha1.ConditionsFieldManager, Force: &force})
	return err
}

// watch calls heard for each renewal of a Lease, until ctx ends.
func (l *Leases) watch(ctx context.Context, heard func(instance string)) {
	selector := labels.Set{v1alpha1.LeaseLabel: v1alpha1.LeaseLabelValue}.String()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = selector
			return l.client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = selector
			return l.client.Watch(ctx, options)
		},
	}, l.client)
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    &coordinationv1.Lease{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { hear(nil, obj, heard) },
			UpdateFunc: func(old, obj any) {
				before, _ := old.(*coordinationv1.Lease)
				hear(before, obj, heard)
			},
		},
	})
	informer.RunWithContext(ctx)
}

// hear calls heard when a Lease changes. It does not compare times in Leases with the local clock, because clocks differ.
func hear(before *coordinationv1.Lease, obj any, heard func(instance string)) {
	lease, ok := obj.(*coordinationv1.Lease)
	if !ok || lease.Spec.HolderIdentity == nil || before != nil && before.Spec.RenewTime.Equal(lease.Spec.RenewTime) {
		return
	}
	heard(*lease.Spec.HolderIdentity)
}
