// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
)

// BenchmarkFirstSync reads 1,000 Mappings with 10 ports, their Services, and slices with 3 endpoints, as an API server
// sends them. It reports the time, the bytes on the wire and the heap in use.
func BenchmarkFirstSync(b *testing.B) {
	for _, protobuf := range []bool{false, true} {
		b.Run(fmt.Sprintf("protobuf=%t", protobuf), func(b *testing.B) {
			firstSync(b, newAPI(b, protobuf, 1000), func(s objects.Snapshot) int { return len(s.EndpointSlices) }, 1000)
		})
	}
}

// BenchmarkFirstSyncOfGrants reads 10,000 PortGrants, as a relay sends them.
func BenchmarkFirstSyncOfGrants(b *testing.B) {
	server := newAPI(b, false, 0)
	for i := range 10000 {
		server.objects["portgrants"] = append(server.objects["portgrants"], fullGrant(i))
	}
	firstSync(b, server, func(s objects.Snapshot) int { return len(s.PortGrants) }, 10000)
}

// firstSync reads from a server until all is there, and counts what has arrived.
func firstSync(b *testing.B, server *api, count func(objects.Snapshot) int, want int) {
	b.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	b.ReportAllocs()
	var live uint64
	for b.Loop() {
		before := liveHeap()
		c, err := newCluster(&rest.Config{Host: server.URL}, func() {}, log)
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		for !c.HasSynced() {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		live = liveHeap() - before
		if n := count(c.Snapshot()); n != want {
			b.Fatalf("%d objects, want %d", n, want)
		}
		stop()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(server.sent.Load())/float64(b.N), "wire-B/op")
	b.ReportMetric(float64(live), "live-B")
}

// BenchmarkOneChange measures the path of one decoded event of a slice to the Snapshot.
func BenchmarkOneChange(b *testing.B) {
	var s objects.Store
	for i := range 1000 {
		s.Set(strip(kinds.EndpointSlice, fullSlice(i, 0)))
	}
	var versions []*discoveryv1.EndpointSlice
	for i := range 100 {
		versions = append(versions, fullSlice(500, i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Set(strip(kinds.EndpointSlice, versions[i%len(versions)]))
		s.Snapshot()
	}
}

func liveHeap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// api serves the initial events of a watch, with objects of realistic size.
type api struct {
	*httptest.Server
	codecs   codecs
	protobuf bool
	objects  map[string][]apiruntime.Object
	sent     atomic.Int64
}

func newAPI(b *testing.B, protobuf bool, n int) *api {
	b.Helper()
	a := &api{codecs: newCodecs(), protobuf: protobuf, objects: map[string][]apiruntime.Object{}}
	for i := range n {
		a.objects["mappings"] = append(a.objects["mappings"], fullMapping(i))
		a.objects["services"] = append(a.objects["services"], fullService(i))
		a.objects["endpointslices"] = append(a.objects["endpointslices"], fullSlice(i, 0))
	}
	a.Server = httptest.NewServer(a)
	b.Cleanup(func() { a.CloseClientConnections(); a.Close() })
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	all := kinds.All()
	kind := all[slices.IndexFunc(all, func(k *kinds.Kind) bool { return k.Resource == path.Base(r.URL.Path) })]
	media, stream := apiruntime.ContentTypeJSON, apiruntime.ContentTypeJSON
	if a.protobuf && strings.Contains(r.Header.Get("Accept"), apiruntime.ContentTypeProtobuf) {
		media, stream = apiruntime.ContentTypeProtobuf, apiruntime.ContentTypeProtobuf+";stream=watch"
	}
	info, _ := apiruntime.SerializerInfoForMediaType(a.codecs.SupportedMediaTypes(), media)
	w.Header().Set("Content-Type", stream)
	group := kind.GroupVersion()
	object := a.codecs.EncoderForVersion(info.Serializer, group)
	frames := info.StreamSerializer.NewFrameWriter(io.MultiWriter(w, (*counter)(&a.sent)))
	events := streaming.NewEncoder(frames, a.codecs.EncoderForVersion(info.StreamSerializer.Serializer, group))
	send := func(kind watch.EventType, o apiruntime.Object) {
		if raw, err := apiruntime.Encode(object, o); err == nil {
			_ = events.Encode(&metav1.WatchEvent{Type: string(kind), Object: apiruntime.RawExtension{Raw: raw}})
		}
	}
	for _, o := range a.objects[kind.Resource] {
		send(watch.Added, o)
	}
	end := kind.New()
	end.SetResourceVersion("1000")
	end.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	send(watch.Bookmark, end)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

type counter atomic.Int64

func (c *counter) Write(p []byte) (int, error) {
	(*atomic.Int64)(c).Add(int64(len(p)))
	return len(p), nil
}

func fullMeta(name string, i int) metav1.ObjectMeta {
	const uid = "7d8f1c1e-6a4f-4a6e-9d38-0c3b7a5b2f10"
	return metav1.ObjectMeta{
		Name: name, Namespace: "default", UID: uid, ResourceVersion: fmt.Sprint(1000 + i), Generation: 1, CreationTimestamp: metav1.Unix(1700000000, 0),
		Labels:        map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("echo-", i), discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"},
		Annotations:   map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 600)},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:ports":{}}}`)}},
	}
}

// fullGrant is a PortGrant as a relay shows it to a gateway.
func fullGrant(i int) *v1alpha1.PortGrant {
	name := fmt.Sprint("tenant-", i)
	return &v1alpha1.PortGrant{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "PortGrant"},
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: fmt.Sprint(8000000000000000000 + i)},
		Spec:       v1alpha1.PortGrantSpec{Addresses: []string{"198.51.100.0/24", "2001:db8:1::/64"}, Namespaces: []string{name}},
	}
}

func fullMapping(i int) *v1alpha1.Mapping {
	name := fmt.Sprint("echo-", i)
	m := &v1alpha1.Mapping{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Mapping"},
		ObjectMeta: fullMeta(name, i),
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"198.51.100.10"}, ServiceName: name, Mode: v1alpha1.ModeEndpoints},
	}
	for p := range 10 {
		m.Spec.Ports = append(m.Spec.Ports, v1alpha1.MappingPort{Port: int32(10000 + i*10 + p), ServicePort: int32(80 + p)})
	}
	return m
}

func fullService(i int) *corev1.Service {
	name := fmt.Sprint("echo-", i)
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: fullMeta(name, i),
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), Selector: map[string]string{"app": name}},
	}
	for p := range 10 {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Protocol: corev1.ProtocolTCP, Port: int32(80 + p)})
	}
	return s
}

func fullSlice(i, version int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta: fullMeta(fmt.Sprintf("echo-%d-abcde", i), i), AddressType: discoveryv1.AddressTypeIPv4,
	}
	for e := range 3 {
		n := i*3 + e
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 100+version, n/250, n%250+1)},
			NodeName:   new("node-1"),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprint("pod-", n)},
		})
	}
	for p := range 10 {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(fmt.Sprint("p", p)), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080 + p))})
	}
	return s
}
