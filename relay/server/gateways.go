// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// gateways limit what each gateway sees to what the annotations of its ServiceAccount say (filter.ScopeOf).
type gateways struct {
	cache     *watchcache.Cache
	accounts  listerWatcher
	namespace string

	log logrus.FieldLogger
	mu  sync.Mutex
	// malformed has the annotation of each gateway that was logged as malformed.
	malformed map[string]string
	// enrollments has the EnrollmentAnnotation of each gateway that has one.
	enrollments map[string]types.UID
	// refused has the enrollment for which a refusal was last logged.
	refused map[refusal]types.UID
}

var _ toolscache.ReflectorStore = &gateways{}

// newGateways returns the gateways of a namespace. From now on the Cache waits for them.
func newGateways(cache *watchcache.Cache, accounts listerWatcher, namespace string, log logrus.FieldLogger) *gateways {
	cache.ExpectGateways()
	return &gateways{
		cache: cache, accounts: accounts, namespace: namespace, log: log,
		malformed: map[string]string{}, enrollments: map[string]types.UID{}, refused: map[refusal]types.UID{},
	}
}

// run follows the ServiceAccounts until ctx ends.
func (g *gateways) run(ctx context.Context, m *metrics) {
	if g == nil {
		return
	}
	is := func(obj any) bool { _, ok := obj.(*corev1.ServiceAccount); return ok }
	mirror(ctx, g.accounts, &corev1.ServiceAccount{}, is, g, &observer{metrics: m, resource: "serviceaccounts", log: g.log})
}

// sender returns the ServiceAccount that sent a request, if it may be a gateway.
func (g *gateways) sender(req *http.Request) (name string, ok bool) {
	user, found := request.UserFrom(req.Context())
	if g == nil || !found {
		return "", false
	}
	return status.Account(user, g.namespace)
}

// take notes the enrollment of a gateway, and returns what it may see. It logs a malformed annotation once.
func (g *gateways) take(obj any) (name string, scope filter.Scope, err error) {
	account, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return "", scope, fmt.Errorf("unexpected object of type %T from the API server", obj)
	}
	scope, malformed := filter.ScopeOf(account.Annotations)
	text := account.Annotations[v1alpha1.AddressesAnnotation]
	g.mu.Lock()
	defer g.mu.Unlock()
	if enrollment, bound := account.Annotations[v1alpha1.EnrollmentAnnotation]; bound {
		g.enrollments[account.Name] = types.UID(enrollment)
	} else {
		delete(g.enrollments, account.Name)
	}
	logged, known := g.malformed[account.Name]
	switch {
	case malformed == nil:
		delete(g.malformed, account.Name)
	case !known || logged != text:
		g.malformed[account.Name] = text
		g.log.WithError(malformed).WithFields(logrus.Fields{"gateway": account.Name, "annotation": v1alpha1.AddressesAnnotation}).
			Error("malformed addresses, gateway sees nothing")
	}
	return account.Name, scope, nil
}

// Add implements toolscache.ReflectorStore.
func (g *gateways) Add(obj any) error { return g.Update(obj) }

// Update implements toolscache.ReflectorStore.
func (g *gateways) Update(obj any) error {
	name, scope, err := g.take(obj)
	if err == nil {
		g.cache.SetGateway(name, scope)
	}
	return err
}

// Delete implements toolscache.ReflectorStore.
func (g *gateways) Delete(obj any) error {
	account, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return fmt.Errorf("unexpected object of type %T from the API server", obj)
	}
	g.cache.RemoveGateway(account.Name)
	return nil
}

// Replace implements toolscache.ReflectorStore.
func (g *gateways) Replace(objects []any, _ string) error {
	scopes := make(map[string]filter.Scope, len(objects))
	for _, obj := range objects {
		name, scope, err := g.take(obj)
		if err != nil {
			return err
		}
		scopes[name] = scope
	}
	g.cache.SetGateways(scopes)
	return nil
}

// Resync implements toolscache.ReflectorStore.
func (g *gateways) Resync() error { return nil }

// serviceAccounts is a client as a listerWatcher.
type serviceAccounts struct {
	client interface {
		List(ctx context.Context, options metav1.ListOptions) (*corev1.ServiceAccountList, error)
		Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
	}
}

func (s serviceAccounts) List(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := s.client.List(ctx, options)
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (s serviceAccounts) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return s.client.Watch(ctx, options)
}
