// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// patience bounds every wait of these tests.
const patience = time.Minute

var resource = schema.GroupResource{Group: v1alpha1.GroupName, Resource: "mappings"}

// cluster is a fake API server. It implements enough of server-side apply for several managers, and of optimistic locking.
type cluster struct {
	t  *testing.T
	mu sync.Mutex
	// caches get every change at once.
	caches   []*watchcache.Cache
	version  int
	mappings map[key]*v1alpha1.Mapping
	// reads and writes are the requests of the code under test.
	reads, writes []string
	// before is called before each write, without the lock.
	before func()
	// fails, if set, is the response to every write.
	fails error
}

func newCluster(t *testing.T, caches int) *cluster {
	t.Helper()
	c := &cluster{t: t, mappings: map[key]*v1alpha1.Mapping{}}
	for range caches {
		cache := watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)
		for _, r := range cache.Resources() {
			if err := r.Store().Replace(nil, ""); err != nil {
				t.Fatal(err)
			}
		}
		c.caches = append(c.caches, cache)
	}
	return c
}

// put creates or changes a Mapping in the cluster.
func (c *cluster) put(m *v1alpha1.Mapping) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	m = m.DeepCopy()
	if before := c.mappings[conflicts.Key(m)]; before != nil {
		m.UID, m.Generation, m.Status, m.CreationTimestamp = before.UID, before.Generation+1, before.Status, before.CreationTimestamp
	} else {
		m.UID, m.Generation = types.UID("uid-of-"+m.Name), 1
	}
	c.store(m)
}

func (c *cluster) store(m *v1alpha1.Mapping) {
	c.version++
	m.ResourceVersion = strconv.Itoa(c.version)
	c.mappings[conflicts.Key(m)] = m
	for _, cache := range c.caches {
		if err := cache.Mappings().Store().Update(m.DeepCopy()); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) remove(namespace, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mappings[key{Namespace: namespace, Name: name}]
	delete(c.mappings, conflicts.Key(m))
	for _, cache := range c.caches {
		if err := cache.Mappings().Store().Delete(m); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) putService(s *corev1.Service) {
	for _, cache := range c.caches {
		if err := cache.Services().Store().Update(s.DeepCopy()); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) removeService(s *corev1.Service) {
	for _, cache := range c.caches {
		if err := cache.Services().Store().Delete(s); err != nil {
			c.t.Error(err)
		}
	}
}

func (c *cluster) Get(_ context.Context, namespace, name string) (*v1alpha1.Mapping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = append(c.reads, namespace+"/"+name)
	if m := c.mappings[key{Namespace: namespace, Name: name}]; m != nil {
		return m.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(resource, name)
}

func (c *cluster) ApplyStatus(
	_ context.Context, manager string, at conditions.AppliedMetadata, status v1alpha1.MappingStatus,
) (*v1alpha1.Mapping, error) {
	if c.before != nil {
		c.before()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fails != nil {
		return nil, c.fails
	}
	m := c.mappings[key{Namespace: at.Namespace, Name: at.Name}]
	switch {
	case m == nil:
		return nil, apierrors.NewNotFound(resource, at.Name)
	case at.UID != "" && at.UID != m.UID, at.ResourceVersion != "" && at.ResourceVersion != m.ResourceVersion:
		return nil, apierrors.NewConflict(resource, at.Name, fmt.Errorf("it has changed"))
	}
	m = m.DeepCopy()
	if name, ok := strings.CutPrefix(manager, v1alpha1.InstanceFieldManagerPrefix); ok {
		m.Status.Instances = slices.DeleteFunc(m.Status.Instances, func(i v1alpha1.InstanceStatus) bool { return i.Name == name })
		m.Status.Instances = append(m.Status.Instances, status.Instances...)
	} else {
		status.Instances = m.Status.Instances
		m.Status = status
	}
	c.writes = append(c.writes, fmt.Sprintf("%s %s/%s", manager, at.Namespace, at.Name))
	c.store(m)
	return m.DeepCopy(), nil
}

// says returns a condition of a Mapping, as in "False PortConflict".
func (c *cluster) says(name, condition string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mappings[key{Namespace: "shop", Name: name}]
	if is := meta.FindStatusCondition(m.Status.Conditions, condition); is != nil {
		return string(is.Status) + " " + is.Reason
	}
	return ""
}

func (c *cluster) written() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.writes)
}

// controller returns a Controller with the cache of that number.
func (c *cluster) controller(cache int) (*Controller, *record.FakeRecorder) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	recorder := record.NewFakeRecorder(1000)
	return New(Options{Cache: c.caches[cache], Mappings: c, Recorder: recorder, Log: log}), recorder
}

// run runs a Controller until the test ends.
func run(t *testing.T, c *Controller) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func recorded(r *record.FakeRecorder) []string {
	var all []string
	for {
		select {
		case e := <-r.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// mapping returns a Mapping to the Service of the same name, created so many seconds after the start.
func mapping(name string, born int, ports ...int32) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(born), 0))},
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"192.0.2.1"}, ServiceName: name},
	}
	for _, p := range ports {
		m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: p, ServicePort: 80})
	}
	return m
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
}
