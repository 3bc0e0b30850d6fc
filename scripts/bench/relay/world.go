// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// writers is the number of concurrent writers that create objects.
	writers = 16
	// fleetNamespace holds the ServiceAccounts of the watchers.
	fleetNamespace = "gateways"
	gatewayRole    = "smartnat-gateway"
)

// world is a lab with an API server that holds the objects of a large cluster.
type world struct {
	*lab.Lab
	plan plan
	core kubernetes.Interface
	// controller replaces the EndpointSlice controller, which does not run.
	controller kubernetes.Interface
	smartnat   versioned.Interface
	roots      *x509.CertPool
	marks      int
}

func newWorld(ctx context.Context, p plan) (*world, error) {
	l, err := lab.Start(ctx, lab.WithAPIServerAlone())
	if err != nil {
		return nil, err
	}
	w := &world{Lab: l, plan: p, roots: x509.NewCertPool()}
	if err := w.furnish(ctx); err != nil {
		return nil, errors.Join(err, l.Stop())
	}
	return w, nil
}

func (w *world) furnish(ctx context.Context) (err error) {
	config := w.RESTConfig()
	authority := config.CAData
	if len(authority) == 0 {
		if authority, err = os.ReadFile(config.CAFile); err != nil {
			return err
		}
	}
	w.roots.AppendCertsFromPEM(authority)
	if w.smartnat, err = versioned.NewForConfig(config); err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, asGateways
	if w.core, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if w.controller, err = w.EndpointSliceController(); err != nil {
		return err
	}
	return w.ApplyCRDs(ctx)
}

// populate creates the cluster's objects and reports progress. The Services have fixed addresses. One of these may already be
// taken by a Service for which the API server chose an address before, such as the relay's.
func (w *world) populate(ctx context.Context, say func(made int)) error {
	for o := object(0); int(o) < w.plan.Services; o += perNamespace {
		if err := w.createNamespace(ctx, o.namespace()); err != nil {
			return err
		}
	}
	return inParallel(ctx, w.plan.Services, func(ctx context.Context, i int) error {
		o := object(i)
		if i > 0 && i%1000 == 0 {
			say(i)
		}
		if _, err := w.core.CoreV1().Services(o.namespace()).Create(ctx, o.service(), metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := w.controller.DiscoveryV1().EndpointSlices(o.namespace()).Create(ctx, o.slice(w.plan.Endpoints), metav1.CreateOptions{})
		if err != nil || !w.mapped(o) {
			return err
		}
		_, err = w.smartnat.SmartnatV1alpha1().Mappings(o.namespace()).Create(ctx, o.mapping(), metav1.CreateOptions{})
		return err
	})
}

// mapped reports whether the Service of o is mapped. Mapped Services are evenly distributed.
func (w *world) mapped(o object) bool {
	apart := w.plan.Services / w.plan.Mapped
	return int(o)%apart == 0 && int(o)/apart < w.plan.Mapped
}

func (w *world) createNamespace(ctx context.Context, name string) error {
	_, err := w.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// admit creates a ServiceAccount for each watcher with the rights of a gateway from the relay's manifests, and returns their
// tokens. Unlike the tokens of gateways, they are valid for both servers.
func (w *world) admit(ctx context.Context) ([]string, error) {
	if _, err := w.ApplyRelay(ctx); err != nil {
		return nil, err
	}
	if err := w.createNamespace(ctx, fleetNamespace); err != nil {
		return nil, err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: fleetNamespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: gatewayRole},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:serviceaccounts:" + fleetNamespace}},
	}
	if _, err := w.core.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	accounts, tokens := w.core.CoreV1().ServiceAccounts(fleetNamespace), make([]string, w.plan.Watchers)
	err := inParallel(ctx, w.plan.Watchers, func(ctx context.Context, i int) error {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("gateway-%03d", i)}}
		if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
			return err
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"smartnat-relay", "https://kubernetes.default.svc"}, ExpirationSeconds: new(int64(24 * 3600)),
		}}
		answer, err := accounts.CreateToken(ctx, account.Name, request, metav1.CreateOptions{})
		if err == nil {
			tokens[i] = answer.Status.Token
		}
		return err
	})
	return tokens, err
}

// inParallel calls do for 0 to n-1, several at a time.
func inParallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// write is one change of an EndpointSlice, with the times of the request and the response.
type write struct {
	mark           int
	sent, answered time.Time
}

// write moves the first endpoint of n slices, one after the other, starting one at most every plan.every.
func (w *world) write(ctx context.Context, n int, which func(i int) object) ([]write, error) {
	ticker := time.NewTicker(w.plan.every)
	defer ticker.Stop()
	var all []write
	for i := range n {
		o := which(i)
		one := write{mark: w.marks % marks, sent: time.Now()}
		w.marks++
		patch := fmt.Sprintf(`[{"op":"replace","path":"/endpoints/0/addresses/0","value":%q}]`, mark(one.mark))
		name := o.slice(0).Name
		if _, err := w.controller.DiscoveryV1().EndpointSlices(o.namespace()).Patch(ctx, name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return all, fmt.Errorf("changing EndpointSlice %s: %w", name, err)
		}
		one.answered = time.Now()
		all = append(all, one)
		select {
		case <-ctx.Done():
			return all, ctx.Err()
		case <-ticker.C:
		}
	}
	return all, nil
}

// mappedObject returns the i-th mapped object, and otherObject the i-th that is not mapped.
func (w *world) mappedObject(i int) object {
	return object(i % w.plan.Mapped * (w.plan.Services / w.plan.Mapped))
}
func (w *world) otherObject(i int) object { return w.mappedObject(i) + 1 }

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// await polls until check returns nil, or returns its last error.
func await(ctx context.Context, patience time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lab.Poll(ctx, func(context.Context) error { return check() })
}
