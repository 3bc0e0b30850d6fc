// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Mappings reads Mappings in the cluster and writes their status.
type Mappings interface {
	Get(ctx context.Context, namespace, name string) (*v1alpha1.Mapping, error)
	// ApplyStatus applies all status fields of a field manager, by server-side apply.
	ApplyStatus(ctx context.Context, manager string, meta conditions.AppliedMetadata, status v1alpha1.MappingStatus) (*v1alpha1.Mapping, error)
}

// MappingClient reads and writes the Mappings of a namespace.
type MappingClient interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.Mapping, error)
	Patch(ctx context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*v1alpha1.Mapping, error)
}

// Events writes Events of a namespace.
type Events interface {
	Create(ctx context.Context, event *corev1.Event, options metav1.CreateOptions) (*corev1.Event, error)
}

// maxEventRetries bounds the retries of an Event about a deleted Mapping, and so the memory for those that cannot be written.
const maxEventRetries = 10

// NewMappings returns Mappings that use the client of each namespace.
func NewMappings(in func(namespace string) MappingClient) Mappings { return clientMappings{in} }

type clientMappings struct {
	in func(namespace string) MappingClient
}

func (c clientMappings) Get(ctx context.Context, namespace, name string) (*v1alpha1.Mapping, error) {
	return c.in(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (c clientMappings) ApplyStatus(
	ctx context.Context, manager string, meta conditions.AppliedMetadata, status v1alpha1.MappingStatus,
) (*v1alpha1.Mapping, error) {
	body, err := conditions.Apply(meta, status)
	if err != nil {
		return nil, err
	}
	force := true
	return c.in(meta.Namespace).Patch(ctx, meta.Name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: manager, Force: &force}, "status")
}

// settle writes the status of a Mapping if it is not up to date. The cache decides whether there is anything to do; the written
// status is computed from the live Mapping, and the server rejects it if that changes meanwhile. If several relays see the same
// change, one writes and the others find it written.
func (c *Controller) settle(ctx context.Context, k key) error {
	if err := c.announceDeletion(ctx, k); err != nil {
		return err
	}
	facts := c.view.get(k)
	m := facts.Mapping
	if m == nil {
		return nil
	}
	facts.Service = c.service(k.Namespace, m.Spec.ServiceName)
	if conditions.Holds(m.Status, conditions.Decide(facts, c.now())) {
		return nil
	}
	live, err := c.Mappings.Get(ctx, k.Namespace, k.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading Mapping %s: %w", k, err)
	case live.UID != m.UID || live.Generation != m.Generation:
		// Its conflicts are unknown until the cache has this version.
		return nil
	}
	facts.Mapping = live
	decided := conditions.Decide(facts, c.now())
	if conditions.Holds(live.Status, decided) {
		return nil
	}
	_, err = c.Mappings.ApplyStatus(ctx, v1alpha1.ConditionsFieldManager, conditions.AppliedMetadata{
		Namespace: live.Namespace, Name: live.Name, UID: live.UID, ResourceVersion: live.ResourceVersion,
	}, decided)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("writing the status of Mapping %s: %w", k, err)
	}
	c.announce(live, decided)
	return nil
}

// announce records Events about changes that a user should see. Only the relay that wrote the status gets here, so each is
// recorded once.
func (c *Controller) announce(m *v1alpha1.Mapping, decided v1alpha1.MappingStatus) {
	for _, n := range news(m.Status, decided, newAccount(m, decided, c.view.grantsOf(m))) {
		c.Recorder.Event(reference(m), n.eventType, n.reason, n.note)
	}
}

// announceDeletion writes the Event about a deleted Mapping. All relays try.
func (c *Controller) announceDeletion(ctx context.Context, k key) error {
	m := c.view.deletedAt(k)
	if m == nil {
		return nil
	}
	event := deletion(m, c.view.grantsOf(m), c.now())
	if event != nil && c.Events != nil {
		_, err := c.Events(m.Namespace).Create(ctx, event, metav1.CreateOptions{})
		switch {
		// Another relay was first, the namespace is being deleted too, or the relay may write no Events.
		case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		case c.queue.NumRequeues(k) < maxEventRetries:
			return fmt.Errorf("writing the Event about deleted Mapping %s: %w", k, err)
		}
	}
	c.view.forget(k, m)
	return nil
}
