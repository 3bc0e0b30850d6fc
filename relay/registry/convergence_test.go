// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// TestInformersConverge is a random walk through changes of a cluster, broken connections, restarts of replicas, and
// clients that reach another replica with each connection, as they do behind a Service. The stock reflectors of client-go
// always converge on filtertest.Visible of the cluster, and no event of one replica is lost, repeated or reordered.
func TestInformersConverge(t *testing.T) {
	replaced, told := 0, 0
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			// Both ways in which client-go begins.
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, seed%2 == 0)
			w := newWorld(t, seed)
			for range 12 {
				for range 25 {
					w.step()
				}
				w.check()
			}
			for _, f := range w.followed {
				f.mu.Lock()
				replaced, told = replaced+f.replaced, told+f.told
				f.mu.Unlock()
			}
		})
	}
	// A walk with too few lists and events proves nothing. There are 72 clients.
	t.Logf("%d lists, %d events", replaced, told)
	if replaced < 2*72 || told < 10*72 {
		t.Errorf("%d lists and %d events are too few to prove anything", replaced, told)
	}
}

// world is a cluster and two replicas of the relay behind one address.
type world struct {
	*testing.T
	*rand.Rand
	cluster  filtertest.Cluster
	changes  int
	server   *httptest.Server
	followed []*follower

	mu       sync.Mutex
	replicas [2]*replica
	calls    int
}

// replica is one relay process.
type replica struct {
	cache    *watchcache.Cache
	api      http.Handler
	stopping chan struct{}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{T: t, Rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range w.replicas {
		w.restart(i)
	}
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		w.mu.Lock()
		w.calls++
		r := w.replicas[w.calls%2]
		w.mu.Unlock()
		r.api.ServeHTTP(rw, req)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for _, view := range []watchcache.View{watchcache.Whole, watchcache.ForGateway} {
		for kind := range kindsOf(w.replicas[0].cache) {
			f := newFollower(w, kind, view)
			w.followed = append(w.followed, f)
			done.Go(func() { f.run(ctx, w.server.URL) })
		}
	}
	t.Cleanup(func() {
		cancel()
		for _, r := range w.replicas {
			close(r.stopping)
		}
		w.server.CloseClientConnections()
		done.Wait()
		w.server.Close()
	})
	return w
}

func kindsOf(c *watchcache.Cache) [3]*watchcache.Resource {
	return [3]*watchcache.Resource{c.Mappings(), c.Services(), c.EndpointSlices()}
}

func (w *world) step() {
	switch n := w.IntN(100); {
	case n < 2:
		w.restart(w.IntN(2))
	case n < 6:
		w.server.CloseClientConnections()
	case n < 20:
		// Let clients catch up partly.
		time.Sleep(time.Duration(w.IntN(3000)) * time.Microsecond)
	default:
		w.change()
	}
}

// restart replaces a replica by a new process, which ends its watches and begins with a full list.
func (w *world) restart(i int) {
	r := &replica{cache: watchcache.New(watchcache.NewEpoch(), 24), stopping: make(chan struct{})}
	api, err := New(r.cache, r.stopping)
	if err != nil {
		w.Fatal(err)
	}
	r.api = withRequestInfo(api)
	var objects [3][]any
	for _, m := range w.cluster.Mappings {
		objects[0] = append(objects[0], m)
	}
	for _, s := range w.cluster.Services {
		objects[1] = append(objects[1], s)
	}
	for _, s := range w.cluster.EndpointSlices {
		objects[2] = append(objects[2], s)
	}
	for _, resource := range []*watchcache.Resource{r.cache.PortGrants(), r.cache.Namespaces()} {
		if err := resource.Store().Replace(nil, ""); err != nil {
			w.Fatal(err)
		}
	}
	for kind, resource := range kindsOf(r.cache) {
		if err := resource.Store().Replace(objects[kind], ""); err != nil {
			w.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.replicas[i]; old != nil {
		close(old.stopping)
	}
	w.replicas[i] = r
}

// change creates, modifies or deletes a random object, of few names, and sends the event to the replicas.
func (w *world) change() {
	w.changes++
	meta := metav1.ObjectMeta{
		Namespace: "shop", Name: fmt.Sprint("n", w.IntN(5)), UID: types.UID(fmt.Sprint(w.IntN(2))),
		Labels: map[string]string{"change": fmt.Sprint(w.changes)}, Annotations: map[string]string{"of-no": "interest"},
	}
	service := fmt.Sprint("n", w.IntN(5))
	switch w.IntN(3) {
	case 0:
		w.cluster.Mappings = place(w, w.cluster.Mappings, &v1alpha1.Mapping{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: w.Int32N(6)}},
		}})
	case 1:
		w.cluster.Services = place(w, w.cluster.Services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}})
	default:
		meta.Labels[discoveryv1.LabelServiceName] = service
		w.cluster.EndpointSlices = place(w, w.cluster.EndpointSlices, &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: "IPv4"})
	}
}

// place adds an object, replaces the one of its name, or removes it.
func place[T watchcache.Object](w *world, objects []T, obj T) []T {
	for i, old := range objects {
		if old.GetName() != obj.GetName() {
			continue
		}
		if w.IntN(3) == 0 {
			for _, r := range w.replicas {
				if err := resourceOf(r.cache, old).Store().Delete(old); err != nil {
					w.Fatal(err)
				}
			}
			return append(objects[:i:i], objects[i+1:]...)
		}
		objects = append(objects[:i:i], objects[i+1:]...)
		break
	}
	for _, r := range w.replicas {
		put(w, r.cache, obj)
	}
	return append(objects, obj)
}

// check waits until all clients hold filtertest.Visible of the cluster.
func (w *world) check() {
	visible := filtertest.Visible(w.cluster)
	wants := [2][3]map[string]watchcache.Object{{{}, {}, {}}, {{}, {}, {}}}
	whole, brief := wants[watchcache.Whole], wants[watchcache.ForGateway]
	for _, m := range visible.Mappings {
		whole[0][m.Name], brief[0][m.Name] = m, kinds.Mapping.ForGateway(m)
	}
	for _, s := range visible.Services {
		whole[1][s.Name], brief[1][s.Name] = s, kinds.Service.ForGateway(s)
	}
	for _, s := range visible.EndpointSlices {
		whole[2][s.Name], brief[2][s.Name] = s, kinds.EndpointSlice.ForGateway(s)
	}
	for _, f := range w.followed {
		want := wants[f.view]
		deadline := time.Now().Add(time.Minute)
		for !equality.Semantic.DeepEqual(want[f.kind], f.state()) && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if diff := cmp.Diff(want[f.kind], f.state(), cmpopts.EquateEmpty()); diff != "" {
			w.Fatalf("kind %d after %d changes (-want +held)\n%s", f.kind, w.changes, diff)
		}
	}
}
