// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

const (
	// leaseEvery is the shortest interval of renewals. leaseDuration is how long the Lease is valid, and so how long relays
	// wait.
	leaseEvery    = time.Minute
	leaseDuration = 10 * time.Minute
	// LeaseNamespace is where relays look for Leases by default.
	LeaseNamespace = "smartnat"
	// requestTimeout bounds each request. No other work waits for a request.
	requestTimeout = 10 * time.Second
)

// Client accesses the status of Mappings: through a relay, which accepts entries and does the rest, or in the cluster.
type Client struct {
	instance string
	// name is the instance name in entries on this side. It equals instance, unless the server reports another one for the
	// credential. asks is set until the server was asked.
	name string
	asks bool
	api  API
	// namespace is the namespace of the Lease, or "" if the relay tracks which gateways report.
	namespace string
	renewed   time.Time
	now       func() time.Time
}

// NewRelayClient returns a Client that reports through a relay.
func NewRelayClient(instance string, api API) *Client {
	return &Client{instance: instance, name: instance, api: api, now: time.Now}
}

// NewUnnamedClient returns a Client that reports through a relay, as the instance that the relay reports for the credential, or
// as instance if it reports none.
func NewUnnamedClient(instance string, api API) *Client {
	c := NewRelayClient(instance, api)
	c.asks = true
	return c
}

// NewClusterClient returns a Client that writes to the cluster, and keeps a Lease in a namespace as a sign of life.
func NewClusterClient(instance string, api API, namespace string) *Client {
	return &Client{instance: instance, name: instance, api: api, namespace: namespace, now: time.Now}
}

// ask asks for the instance of the credential. A server that does not know the question, or the answer, accepts any name.
func (c *Client) ask(ctx context.Context) error {
	if !c.asks {
		return nil
	}
	instance, err := c.api.Whoami(ctx)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err), apierrors.IsForbidden(err):
	case err != nil:
		return fmt.Errorf("asking which instance this is: %w", err)
	case instance != "":
		c.instance = instance
	}
	c.asks = false
	return nil
}

// Read returns the existing entries of this gateway.
func (c *Client) Read(ctx context.Context) (map[types.NamespacedName]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := c.ask(ctx); err != nil {
		return nil, err
	}
	list, err := c.api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the status of Mappings: %w", err)
	}
	have := map[key]Entry{}
	for i := range list.Items {
		m := &list.Items[i]
		for _, e := range m.Status.Instances {
			if e.Name == c.instance {
				e.Name = c.name
				have[key{Namespace: m.Namespace, Name: m.Name}] = Entry{m.UID, e}
			}
		}
	}
	return have, nil
}

// Write writes the entry of a Mapping.
func (c *Client) Write(ctx context.Context, mapping types.NamespacedName, e Entry) error {
	entry := e.InstanceStatus
	entry.Name = c.instance
	return c.apply(ctx, mapping, e.UID, v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{entry}})
}

// Remove removes the entry of a Mapping.
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
	err = c.api.Apply(ctx, k, v1alpha1.InstanceFieldManagerPrefix+c.instance, body)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of Mapping %s: %w", k, err)
	}
	return nil
}

// renew renews the Lease. It comes before any write, because an entry without a Lease belongs to a gateway that is gone.
func (c *Client) renew(ctx context.Context) error {
	now := c.now()
	if c.namespace == "" || now.Sub(c.renewed) < leaseEvery {
		return nil
	}
	lease := types.NamespacedName{Namespace: c.namespace, Name: v1alpha1.LeaseNamePrefix + c.instance}
	if err := c.api.Renew(ctx, lease, v1alpha1.ConditionsFieldManager, c.instance, now, leaseDuration); err != nil {
		return fmt.Errorf("renewing Lease %s: %w", lease, err)
	}
	c.renewed = now
	return nil
}
