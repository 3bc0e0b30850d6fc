// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycoordinationv1 "k8s.io/client-go/applyconfigurations/coordination/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
)

const (
	// leaseEvery is how often the Lease is renewed at most, leaseDuration how long it holds: what relays wait for.
	leaseEvery    = time.Minute
	leaseDuration = 10 * time.Minute
	// LeaseNamespace is where relays look for Leases, unless they are told otherwise.
	LeaseNamespace = "smartnat"
	// requestTimeout bounds each request. Nobody waits for it.
	requestTimeout = 10 * time.Second
)

// Client speaks to the API that holds the status of Mappings: the relay, which takes entries and does the rest, or the cluster.
type Client struct {
	instance string
	mappings versioned.Interface
	// leases are nil where the relay notes who reported.
	leases    kubernetes.Interface
	namespace string
	renewed   time.Time
	now       func() time.Time
}

// NewRelayClient reports through a relay.
func NewRelayClient(instance string, mappings versioned.Interface) *Client {
	return &Client{instance: instance, mappings: mappings, now: time.Now}
}

// NewClusterClient writes into the cluster, and says by a Lease in a namespace that this gateway is still there.
func NewClusterClient(instance string, mappings versioned.Interface, leases kubernetes.Interface, namespace string) *Client {
	return &Client{instance: instance, mappings: mappings, leases: leases, namespace: namespace, now: time.Now}
}

// Read returns the entries of this gateway that there are.
func (c *Client) Read(ctx context.Context) (map[types.NamespacedName]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := c.mappings.SmartnatV1alpha1().Mappings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the status of Mappings: %w", err)
	}
	have := map[key]Entry{}
	for i := range list.Items {
		m := &list.Items[i]
		for _, e := range m.Status.Instances {
			if e.Name == c.instance {
				have[key{Namespace: m.Namespace, Name: m.Name}] = Entry{m.UID, e}
			}
		}
	}
	return have, nil
}

// Write makes the entry of a Mapping what it is to be.
func (c *Client) Write(ctx context.Context, mapping types.NamespacedName, e Entry) error {
	return c.apply(ctx, mapping, e.UID, v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{e.InstanceStatus}})
}

// Remove takes the entry of a Mapping out.
func (c *Client) Remove(ctx context.Context, mapping types.NamespacedName) error {
	return c.apply(ctx, mapping, "", v1alpha1.MappingStatus{})
}

func (c *Client) apply(ctx context.Context, k key, uid types.UID, status v1alpha1.MappingStatus) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := c.renew(ctx); err != nil {
		return err
	}
	body, err := conditions.Apply(conditions.AppliedMetadata{Namespace: k.Namespace, Name: k.Name, UID: uid}, status)
	if err != nil {
		return err
	}
	force := true
	_, err = c.mappings.SmartnatV1alpha1().Mappings(k.Namespace).Patch(ctx, k.Name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: v1alpha1.InstanceFieldManagerPrefix + c.instance, Force: &force}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of Mapping %s: %w", k, err)
	}
	return nil
}

// renew says that this gateway is still there, before it says anything else: an entry without a Lease is of one that went.
func (c *Client) renew(ctx context.Context) error {
	now := c.now()
	if c.leases == nil || now.Sub(c.renewed) < leaseEvery {
		return nil
	}
	name := v1alpha1.LeaseNamePrefix + c.instance
	_, err := c.leases.CoordinationV1().Leases(c.namespace).Apply(ctx, applycoordinationv1.Lease(name, c.namespace).
		WithLabels(map[string]string{v1alpha1.LeaseLabel: v1alpha1.LeaseLabelValue}).
		WithSpec(applycoordinationv1.LeaseSpec().
			WithHolderIdentity(c.instance).
			WithLeaseDurationSeconds(int32(leaseDuration.Seconds())).
			WithRenewTime(metav1.NewMicroTime(now))),
		metav1.ApplyOptions{FieldManager: v1alpha1.ConditionsFieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("renewing Lease %s/%s: %w", c.namespace, name, err)
	}
	c.renewed = now
	return nil
}
