// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// countPause is the shortest interval between counts of what PortGrants are used for.
const countPause = 2 * time.Second

// PortGrants reads PortGrants in the cluster and writes their status.
type PortGrants interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*v1alpha1.PortGrant, error)
	Patch(ctx context.Context, name string, how types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*v1alpha1.PortGrant, error)
}

// GrantWriter writes the status of PortGrants. All replicas decide the same: one writes, the others find it written, and the API server refuses
// a write that is based on an outdated PortGrant.
type GrantWriter struct {
	PortGrants PortGrants
	Cache      *watchcache.Cache
	// Grants says which addresses need a PortGrant.
	Grants string
	Log    logrus.FieldLogger

	// found is the status of each PortGrant in the cluster as far as it is known, without times.
	found     map[types.UID]v1alpha1.PortGrantStatus
	complaint string // the last error that was logged
}

// Run writes until ctx ends. Namespaces without a Mapping cause no event here, so they are counted once a minute.
func (w *GrantWriter) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), w.Cache.HasSynced) {
		return
	}
	for {
		portGrants, namespaces, mappings := w.Cache.PortGrants().Changed(), w.Cache.Namespaces().Changed(), w.Cache.Mappings().Changed()
		started, again := time.Now(), compareEvery
		if err := w.Sync(ctx); err != nil {
			again = retryEvery
			w.complain(ctx, err)
		} else {
			w.complaint = ""
		}
		rest := max(countPause, pauseShare*time.Since(started))
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			continue
		case <-portGrants:
		case <-namespaces:
		case <-mappings:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// complain logs each distinct error once. A conflict means that another replica wrote first, which the next look finds.
func (w *GrantWriter) complain(ctx context.Context, err error) {
	if ctx.Err() != nil || apierrors.IsConflict(err) || w.complaint == err.Error() {
		return
	}
	w.complaint = err.Error()
	w.Log.WithError(err).Warn("cannot write the status of PortGrants, will retry")
}

// Sync writes each status that is not up to date.
func (w *GrantWriter) Sync(ctx context.Context) error {
	list := listOf[*v1alpha1.PortGrant](w.Cache.PortGrants())
	found := make(map[types.UID]v1alpha1.PortGrantStatus, len(list))
	before := w.found
	w.found = found
	if len(list) == 0 {
		return nil
	}
	namespaces := make([]*corev1.Namespace, 0, len(list))
	for _, object := range w.Cache.Namespaces().Known() {
		if n, ok := object.(*corev1.Namespace); ok {
			namespaces = append(namespaces, n)
		}
	}
	granted := grants.New(list, namespaces, grants.Options{Required: w.Grants == GrantsRequired})
	selections, used := granted.Selections(namespaces), conflicts.InUse(w.valid(), granted)
	var errs []error
	var conflict error
	for _, g := range list {
		want := conditions.OfPortGrant(g, selections[g.Name], used[g.Name], metav1.Time{})
		if have, known := before[g.UID]; known && conditions.HoldsPortGrant(have, want) {
			found[g.UID] = want
			continue
		}
		switch err := w.write(ctx, g, selections[g.Name], used[g.Name]); {
		case err == nil:
			found[g.UID] = want
		case ctx.Err() != nil:
			return err
		case apierrors.IsConflict(err):
			conflict = err
		default:
			errs = append(errs, err)
		}
	}
	return cmp.Or(errors.Join(errs...), conflict)
}

// valid returns the Mappings that may own ports.
func (w *GrantWriter) valid() []*v1alpha1.Mapping {
	all := listOf[*v1alpha1.Mapping](w.Cache.Mappings())
	valid := make([]*v1alpha1.Mapping, 0, len(all))
	for _, m := range all {
		if len(validation.ValidateMapping(m)) == 0 {
			valid = append(valid, m)
		}
	}
	return valid
}

// write writes the status of a PortGrant unless it is there already.
func (w *GrantWriter) write(ctx context.Context, g *v1alpha1.PortGrant, s grants.Selection, use conflicts.Use) error {
	live, err := w.PortGrants.Get(ctx, g.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading PortGrant %s: %w", g.Name, err)
	case live.UID != g.UID || live.Generation != g.Generation:
		// The cache does not have this version yet, which will wake Run.
		return nil
	}
	decided := conditions.OfPortGrant(live, s, use, metav1.Now())
	if conditions.HoldsPortGrant(live.Status, decided) {
		return nil
	}
	body, err := conditions.ApplyPortGrant(live, decided)
	if err != nil {
		return err
	}
	force := true
	_, err = w.PortGrants.Patch(ctx, g.Name, types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: v1alpha1.ConditionsFieldManager, Force: &force}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of PortGrant %s: %w", g.Name, err)
	}
	return nil
}
