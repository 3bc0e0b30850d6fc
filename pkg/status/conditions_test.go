// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
)

// cluster holds Mappings and records requests.
type cluster struct {
	API
	mu       sync.Mutex
	mappings map[string]*v1alpha1.Mapping
	version  int
	requests []string
	fails    error
}

// Get implements API.
func (c *cluster) Get(_ context.Context, mapping types.NamespacedName) (*v1alpha1.Mapping, error) {
	return c.answer("get", mapping.Name, func(*v1alpha1.Mapping) error { return nil })
}

// Apply implements API.
func (c *cluster) Apply(_ context.Context, mapping types.NamespacedName, manager string, body []byte) error {
	_, err := c.answer("patch", mapping.Name, func(m *v1alpha1.Mapping) error {
		var applied conditions.Applied
		if err := json.Unmarshal(body, &applied); err != nil {
			return err
		}
		if applied.Metadata.ResourceVersion != m.ResourceVersion || manager != v1alpha1.ConditionsFieldManager {
			return apierrors.NewConflict(schema.GroupResource{}, m.Name, errors.New("changed"))
		}
		applied.Status.Instances = m.Status.Instances
		m.Status = applied.Status
		c.version++
		m.ResourceVersion = strconv.Itoa(c.version)
		return nil
	})
	return err
}

func (c *cluster) answer(verb, name string, do func(*v1alpha1.Mapping) error) (*v1alpha1.Mapping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, verb+" "+name)
	m := c.mappings[name]
	if m == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, name)
	}
	if c.fails != nil {
		return nil, c.fails
	}
	if err := do(m); err != nil {
		return nil, err
	}
	return m.DeepCopy(), nil
}

// has adds a Mapping to the Service of the same name, created so many seconds after the start, and returns it as a source does.
func (c *cluster) has(name string, born int64, port int32) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 1, CreationTimestamp: metav1.NewTime(time.Unix(born, 0))},
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"192.0.2.1"}, ServiceName: name, Ports: []v1alpha1.MappingPort{{Port: port}}},
	}
	c.mappings[name] = m.DeepCopy()
	return m
}

// does returns the requests since the last call.
func (c *cluster) does(t *testing.T) []string {
	t.Helper()
	time.Sleep(soon)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	requests := c.requests
	c.requests = nil
	slices.Sort(requests)
	return requests
}

func (c *cluster) says(name, condition string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if is := meta.FindStatusCondition(c.mappings[name].Status.Conditions, condition); is != nil {
		return string(is.Status) + " " + is.Reason
	}
	return ""
}

func deciding(t *testing.T, test func(t *testing.T, conditions *Conditions, c *cluster, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := logrus.New()
		log.SetOutput(&out)
		c := &cluster{mappings: map[string]*v1alpha1.Mapping{}}
		writer := NewConditions(c, config.GrantsOpen, log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); writer.Run(ctx) }()
		test(t, writer, c, &out)
		cancel()
		<-done
	})
}

func TestConditionsWithoutARelay(t *testing.T) {
	deciding(t, func(t *testing.T, writer *Conditions, c *cluster, _ *bytes.Buffer) {
		expect := func(step string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, c.does(t)); diff != "" {
				t.Errorf("%s (-want +got)\n%s", step, diff)
			}
		}
		var f finding.Report
		f.Snapshot.Mappings = []*v1alpha1.Mapping{c.has("old", 1, 80), c.has("new", 2, 80)}
		writer.Report(f)
		expect("at first", "get new", "get old", "patch new", "patch old")
		for _, want := range [][3]string{
			{"old", v1alpha1.ConditionAccepted, "True Accepted"},
			{"old", v1alpha1.ConditionResolvedRefs, "False ServiceNotFound"},
			{"old", v1alpha1.ConditionProgrammed, "False AddressNotHeld"},
			{"old", v1alpha1.ConditionReady, "False ServiceNotFound"},
			{"new", v1alpha1.ConditionAccepted, "False PortConflict"},
		} {
			if got := c.says(want[0], want[1]); got != want[2] {
				t.Errorf("%s of %s is %s, want %s", want[1], want[0], got, want[2])
			}
		}
		writer.Report(f)
		expect("the same objects")

		f.Snapshot.Services = []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "old"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}}}
		writer.Report(f)
		expect("its Service arrives", "get old", "patch old")

		c.mu.Lock()
		c.mappings["old"].Status.Instances = []v1alpha1.InstanceStatus{{Name: "gw1", Addresses: []string{"192.0.2.1"}, ObservedGeneration: 1, Programmed: true, Ready: true}}
		c.mu.Unlock()
		writer.Reported(key{Namespace: "shop", Name: "old"})
		expect("its entry is written", "get old", "patch old")
		if got := c.says("old", v1alpha1.ConditionProgrammed); got != "True Programmed" {
			t.Errorf("Programmed is %s", got)
		}
		if got := c.says("old", v1alpha1.ConditionReady); got != "True Ready" {
			t.Errorf("Ready is %s", got)
		}
		writer.Reported(key{Namespace: "shop", Name: "old"})
		expect("its entry is written again", "get old")

		f.Snapshot.Mappings = f.Snapshot.Mappings[1:]
		writer.Report(f)
		expect("the winner is deleted", "get new", "patch new")
		if got := c.says("new", v1alpha1.ConditionAccepted); got != "True Accepted" {
			t.Errorf("Accepted is %s", got)
		}
	})
}

func TestConditionsThatCannotBeWritten(t *testing.T) {
	deciding(t, func(t *testing.T, writer *Conditions, c *cluster, log *bytes.Buffer) {
		var f finding.Report
		f.Snapshot.Mappings = []*v1alpha1.Mapping{c.has("a", 1, 80), c.has("b", 2, 81), c.has("c", 2, 82)}
		c.fails = errors.New("no cluster")
		writer.Report(f)
		time.Sleep(time.Hour)
		if n := len(c.does(t)); n < 3*8 || n > 3*20 {
			t.Errorf("%d requests in an hour for three Mappings, want them to back off", n)
		}
		if n := strings.Count(log.String(), "cannot write"); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, log)
		}
		c.mu.Lock()
		c.fails = nil
		c.mu.Unlock()
		time.Sleep(refreshEvery)
		c.does(t)
		for name := range c.mappings {
			if got := c.says(name, v1alpha1.ConditionAccepted); got != "True Accepted" {
				t.Errorf("%s: Accepted is %q", name, got)
			}
		}
	})
}
