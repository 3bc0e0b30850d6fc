// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	corefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	smartnatfake "github.com/smartnat/smartnat/generated/clientset/versioned/fake"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// patience bounds every wait of these tests.
const patience = time.Minute

// gateway may read everything, stranger nothing.
const (
	gatewayToken  = "token-of-the-gateway"
	strangerToken = "token-of-a-stranger"
)

// fixture is a relay on a loopback port, with a fake cluster.
type fixture struct {
	core     *corefake.Clientset
	smartnat *smartnatfake.Clientset
	cache    *watchcache.Cache
	address  string
	caPEM    []byte
	stop     func()
}

// servingCert is shared, because key generation is slow.
var servingCert = sync.OnceValues(func() (p pair, err error) {
	p[0], p[1], err = cert.GenerateSelfSignedCertKeyWithFixtures("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil, "")
	return p, err
})

// upstreamOfFakes reads from fake clientsets.
func upstreamOfFakes(core kubernetes.Interface, smartnat versioned.Interface) Upstream {
	return func(kind *kinds.Kind) listerWatcher {
		switch kind {
		case kinds.Mapping:
			return fake[*v1alpha1.MappingList]{smartnat.SmartnatV1alpha1().Mappings(metav1.NamespaceAll)}
		case kinds.Service:
			return fake[*corev1.ServiceList]{core.CoreV1().Services(metav1.NamespaceAll)}
		case kinds.PortGrant:
			return fake[*v1alpha1.PortGrantList]{smartnat.SmartnatV1alpha1().PortGrants()}
		case kinds.Namespace:
			return fake[*corev1.NamespaceList]{core.CoreV1().Namespaces()}
		default:
			return fake[*discoveryv1.EndpointSliceList]{core.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)}
		}
	}
}

// typed is the client of a clientset for one kind.
type typed[L runtime.Object] interface {
	List(ctx context.Context, options metav1.ListOptions) (L, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// fake states that a fake clientset does not support WatchList.
type fake[L runtime.Object] struct{ typed[L] }

func (f fake[L]) List(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	return f.typed.List(ctx, options)
}

func (fake[L]) IsWatchListSemanticsUnSupported() bool { return true }

func newFixture(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	return startRelay(t, corefake.NewClientset(), smartnatfake.NewSimpleClientset(), "127.0.0.1:0", change)
}

// startRelay starts another relay for the same cluster. A second one at the same address simulates a restart.
func startRelay(t *testing.T, core *corefake.Clientset, smartnat *smartnatfake.Clientset, address string, change func(*Config)) *fixture {
	t.Helper()
	shown, err := servingCert()
	if err != nil {
		t.Fatal(err)
	}
	files := folder{t, t.TempDir()}
	files.put(".", shown)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	config := &Config{
		Listener:        listener,
		ServingCert:     files.follow(),
		Authenticator:   authenticator.RequestFunc(fakeAuthentication),
		Authorizer:      authorizer.AuthorizerFunc(fakeAuthorization),
		Cache:           watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory),
		Upstream:        upstreamOfFakes(core, smartnat),
		ShutdownTimeout: 20 * time.Second,
		Log:             log,
	}
	if change != nil {
		change(config)
	}
	server, err := config.Complete()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stopped := false
	f := &fixture{core: core, smartnat: smartnat, cache: config.Cache, address: server.Addr().String(), caPEM: shown[0]}
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v", err)
		}
	}
	t.Cleanup(f.stop)
	eventually(t, "the relay to sync", config.Cache.HasSynced)
	return f
}

func fakeAuthentication(req *http.Request) (*authenticator.Response, bool, error) {
	switch strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ") {
	case gatewayToken:
		return &authenticator.Response{User: &user.DefaultInfo{Name: "gateway"}}, true, nil
	case strangerToken:
		return &authenticator.Response{User: &user.DefaultInfo{Name: "stranger"}}, true, nil
	}
	return nil, false, nil
}

func fakeAuthorization(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetUser().GetName() == "gateway" {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (f *fixture) restConfig() *rest.Config {
	return &rest.Config{
		Host: "https://" + f.address, BearerToken: gatewayToken, TLSClientConfig: rest.TLSClientConfig{CAData: f.caPEM}, QPS: -1,
	}
}

func (f *fixture) coreClient(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(f.restConfig())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (f *fixture) smartnatClient(t *testing.T) versioned.Interface {
	t.Helper()
	client, err := versioned.NewForConfig(f.restConfig())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// answer is the response to a request.
type answer struct {
	status int
	header http.Header
}

// do sends a request and returns the response and its body.
func (f *fixture) do(t *testing.T, method, path string, header http.Header) (answer, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+f.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{
		// Other tests verify the relay's certificate.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: true, DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, body
}

// get reads a path as the gateway and decodes the response.
func (f *fixture) get(t *testing.T, path string, into any) int {
	t.Helper()
	resp, body := f.do(t, http.MethodGet, path, http.Header{"Authorization": {"Bearer " + gatewayToken}})
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("GET %s: %v in %q", path, err, body)
	}
	return resp.status
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func newMapping(namespace, name, service string) *v1alpha1.Mapping {
	return &v1alpha1.Mapping{ObjectMeta: meta(namespace, name), Spec: v1alpha1.MappingSpec{
		Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: 80}},
	}}
}

func newService(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(namespace, name), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1",
		Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
}

func newSlice(namespace, name, service string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.1"}}}
	return s
}

// populate creates one mapped Service and one that is not mapped.
func (f *fixture) populate(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	create := metav1.CreateOptions{}
	var errs []error
	note := func(_ any, err error) { errs = append(errs, err) }
	for _, name := range []string{"mapped", "hidden"} {
		s, e := newService("shop", name), newSlice("shop", name+"-1", name)
		note(f.core.CoreV1().Services("shop").Create(ctx, s, create))
		note(f.core.DiscoveryV1().EndpointSlices("shop").Create(ctx, e, create))
	}
	note(f.smartnat.SmartnatV1alpha1().Mappings("shop").Create(ctx, newMapping("shop", "web", "mapped"), create))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the relay to serve the mapped Service", func() bool {
		return f.cache.Mappings().Get("shop", "web") != nil && f.cache.Services().Get("shop", "mapped") != nil &&
			f.cache.EndpointSlices().Get("shop", "mapped-1") != nil
	})
}
