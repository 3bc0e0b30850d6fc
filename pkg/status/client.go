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
	// name is what the entries are called on this side. It is the instance too, unless the server says that the credential is
	// another's: asks is set until it was asked.
	name string
	asks bool
	api  API
	// namespace is that of the Lease; none where the relay notes who reported.
	namespace string
	renewed   time.Time
	now       func() time.Time
}

// NewRelayClient reports through a relay.
func NewRelayClient(instance string, api API) *Client {
	return &Client{instance: instance, name: instance, api: api, now: time.Now}
}

// NewUnnamedClient reports through a relay as the instance that the relay says the credential is of, or as instance where it
// does not say.
func NewUnnamedClient(instance string, api API) *Client {
	c := NewRelayClient(instance, api)
	c.asks = true
	return c
}

// NewClusterClient writes into the cluster, and says by a Lease in a namespace that this gateway is still there.
func NewClusterClient(instance string, api API, namespace string) *Client {
	return &Client{instance: instance, name: instance, api: api, namespace: namespace, now: time.Now}
}

// ask learns which instance the credential is of. A server that does not know the question, or the answer, takes any name.
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

// Read returns the entries of this gateway that there are.
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

// Write makes the entry of a Mapping what it is to be.
func (c *Client) Write(ctx context.Context, mapping types.NamespacedName, e Entry) error {
	entry := e.InstanceStatus
	entry.Name = c.instance
	return c.apply(ctx, mapping, e.UID, v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{entry}})
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
	err = c.api.Apply(ctx, k, v1alpha1.InstanceFieldManagerPrefix+c.instance, body)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of Mapping %s: %w", k, err)
	}
	return nil
}

// renew says that this gateway is still there, before it says anything else: an entry without a Lease is of one that went.
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
