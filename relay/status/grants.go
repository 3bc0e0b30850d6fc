// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
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

const (
	// countPause is the shortest interval between counts of what PortGrants are used for.
	countPause = 2 * time.Second
	// resyncShares is the number of compareEvery in which all PortGrants are read again.
	resyncShares = 10
)

// errNoStatus means that the cluster has PortGrants of an earlier version. Helm never upgrades a CRD.
var errNoStatus = errors.New("the CRD of PortGrants has no status subresource: run kubectl apply -f apis/crds, of this version")

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
	share     uint32 // the last one that was forgotten
	complaint string // the last error that was logged
}

// Run writes until ctx ends. Namespaces without a Mapping cause no event here, so they are counted once a minute.
func (w *GrantWriter) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), w.Cache.HasSynced) {
		return
	}
	resynced := time.Now()
	for {
		if time.Since(resynced) >= compareEvery {
			resynced = time.Now()
			w.forget()
		}
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

// forget has the next Sync read a share of the PortGrants again, since the Cache does not show a change of the status only. It repairs what
// another client wrote.
func (w *GrantWriter) forget() {
	w.share = (w.share + 1) % resyncShares
	maps.DeleteFunc(w.found, func(uid types.UID, _ v1alpha1.PortGrantStatus) bool {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(uid))
		return hash.Sum32()%resyncShares == w.share
	})
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
		case ctx.Err() != nil, errors.Is(err, errNoStatus): // the same for all
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
	if apierrors.IsNotFound(err) {
		// Either the PortGrant or its subresource. The API server answers the same.
		switch _, err = w.PortGrants.Get(ctx, g.Name, metav1.GetOptions{}); {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			return errNoStatus
		}
	}
	if err != nil {
		return fmt.Errorf("writing the status of PortGrant %s: %w", g.Name, err)
	}
	return nil
}
