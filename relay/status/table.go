// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// tableName is the ConfigMap that the admission policy reads. The manifests create it, because RBAC cannot limit create to a name.
const tableName = "smartnat-grants"

const (
	// The ConfigMap is compared this often even if no PortGrant changes, because others may change it.
	compareEvery = time.Minute
	retryEvery   = 5 * time.Second
)

// ConfigMaps reads and writes the ConfigMaps of a namespace.
type ConfigMaps interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.ConfigMap, error)
	Update(ctx context.Context, m *corev1.ConfigMap, options metav1.UpdateOptions) (*corev1.ConfigMap, error)
}

// Table keeps the ConfigMap by which the admission policy refuses Mappings that are not granted. It gives users an early answer; gateways
// and the status of Mappings do not depend on it. All replicas keep the same: the API server refuses a write that is based on an outdated
// ConfigMap.
type Table struct {
	ConfigMaps ConfigMaps
	Cache      *watchcache.Cache
	// Grants says which addresses need a PortGrant.
	Grants string
	Log    logrus.FieldLogger

	complaint string // the last error that was logged
}

// Run keeps the ConfigMap until ctx ends.
func (t *Table) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), t.Cache.HasSynced) {
		return
	}
	for {
		changed, again := t.Cache.PortGrants().Changed(), compareEvery
		if err := t.Sync(ctx); err != nil {
			again = retryEvery
			t.complain(ctx, err)
		} else {
			t.complaint = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			continue
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause): // handle a burst together
		}
	}
}

// complain logs each distinct error once. A conflict means that another replica wrote first.
func (t *Table) complain(ctx context.Context, err error) {
	if ctx.Err() != nil || apierrors.IsConflict(err) || t.complaint == err.Error() {
		return
	}
	t.complaint = err.Error()
	t.Log.WithError(err).WithField("configmap", tableName).Warn("failed to update the admission policy's grants, will retry")
}

// Sync writes the ConfigMap if it does not have the current PortGrants. If they do not fit, the ConfigMap gets empty and the policy
// refuses nothing.
func (t *Table) Sync(ctx context.Context) error {
	table, tooMany := t.table()
	m, err := t.ConfigMaps.Get(ctx, tableName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the ConfigMap does not exist: apply the manifests of the relay again, which contain it empty: %w", err)
	case err != nil:
		return fmt.Errorf("reading the ConfigMap: %w", err)
	}
	if !maps.Equal(m.Data, table) || len(m.BinaryData) > 0 {
		m.Data, m.BinaryData = table, nil
		if _, err := t.ConfigMaps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("updating the ConfigMap: %w", err)
		}
	}
	return tooMany
}

func (t *Table) table() (map[string]string, error) {
	if t.Grants == GrantsReport {
		return nil, nil
	}
	table, err := grants.New(listOf[*v1alpha1.PortGrant](t.Cache.PortGrants()), nil, grants.Options{Required: t.Grants == GrantsRequired}).Table()
	if err != nil {
		return nil, fmt.Errorf("the admission policy refuses nothing: %w", err)
	}
	return table, nil
}
