// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// aging records when each gateway was last heard of.
type aging struct {
	timeout time.Duration

	mu    sync.Mutex
	heard map[string]time.Time
}

func newAging(timeout time.Duration) *aging {
	return &aging{timeout: timeout, heard: map[string]time.Time{}}
}

func (a *aging) hear(instance string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard[instance] = now
}

// gone reports whether a gateway was silent for the timeout. For one that was never heard of, the timeout starts now.
func (a *aging) gone(instance string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, known := a.heard[instance]
	if !known {
		a.heard[instance] = now
		return false
	}
	return now.Sub(last) >= a.timeout
}

// forget removes the entries of gateways that are gone, and of gateways in Mappings that they may no longer see. Every relay does so; the
// later ones find nothing left.
func (c *Controller) forget(ctx context.Context, now time.Time) {
	for instance, mappings := range c.view.instances() {
		log := c.Log.WithField("instance", instance)
		if c.aging.gone(instance, now) {
			log.WithFields(logrus.Fields{"mappings": len(mappings), "timeout": c.InstanceTimeout}).
				Warn("removing a silent gateway from the status of Mappings")
		} else if mappings = c.unseen(instance, mappings); len(mappings) > 0 {
			log.WithField("mappings", len(mappings)).Info("removing a gateway from Mappings that it may not see")
		}
		for _, m := range mappings {
			// Applying an empty status removes the fields that the manager has applied before.
			_, err := c.Mappings.ApplyStatus(ctx, v1alpha1.InstanceFieldManagerPrefix+instance, conditions.AppliedMetadata{
				Namespace: m.Namespace, Name: m.Name, UID: m.UID,
			}, v1alpha1.MappingStatus{})
			if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				log.WithError(err).WithField("mapping", m.Namespace+"/"+m.Name).Warn("cannot remove the entry of a gateway, will retry")
			}
		}
	}
}

// unseen returns the Mappings that a gateway may not see. A gateway that is not a ServiceAccount sees all.
func (c *Controller) unseen(instance string, mappings []*v1alpha1.Mapping) []*v1alpha1.Mapping {
	portion, known := c.Cache.PortionOf(instance)
	if !known || strings.HasSuffix(instance, certificateSuffix) {
		return nil
	}
	return slices.DeleteFunc(mappings, func(m *v1alpha1.Mapping) bool { return portion.Mappings().Get(m.Namespace, m.Name) != nil })
}

// age calls forget periodically until ctx ends.
func (c *Controller) age(ctx context.Context) {
	ticker := time.NewTicker(c.InstanceTimeout / 10)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			c.forget(ctx, now)
		}
	}
}
