// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"flag"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/status"
	"github.com/smartnat/smartnat/relay/watchcache"
	"github.com/smartnat/smartnat/scripts/skew"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestAnswersToEachVersion sends the requests of gateways of this version and all others, and compares the answers to this version
// with the golden ones, which later gateways must read.
func TestAnswersToEachVersion(t *testing.T) {
	for _, version := range skew.Versions(t) {
		t.Run(version, func(t *testing.T) {
			f := newFixture(t, func(c *Config) {
				c.Cache = watchcache.New(1<<62, watchcache.DefaultHistory)
				c.Reports = &status.Reports{Cache: c.Cache, Mappings: &ledger{}, Namespace: "smartnat", Log: c.Log,
					Heard: func(context.Context, string) error { return nil }}
				c.Authenticator = byCertificate(authenticator.RequestFunc(fakeAuthentication))
			})
			since := f.populateFully(t)
			var running sync.WaitGroup
			for _, file := range []string{"gateway.yaml", "reporter.yaml"} {
				for _, asked := range skew.Requests(t, version, file) {
					running.Go(func() {
						mediaType, body := f.ask(t, asked, since)
						if version == skew.Current {
							skew.Golden(t, asked.Name+skew.SuffixOf(t, mediaType), body, *update)
						}
					})
				}
			}
			running.Wait()
		})
	}
}

// ask sends a request of a gateway, in which since is the version that a watch goes on from.
func (f *fixture) ask(t *testing.T, asked skew.Request, since string) (mediaType string, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	url := "https://" + f.address + strings.Replace(asked.URL, "resourceVersion=7", "resourceVersion="+since, 1)
	req, err := http.NewRequestWithContext(ctx, asked.Method, url, strings.NewReader(asked.Body))
	if err != nil {
		t.Error(err)
		return "", nil
	}
	req.Header = as(gatewayToken)
	req.Header.Set("Accept", asked.Accept)
	if asked.ContentType != "" {
		req.Header.Set("Content-Type", asked.ContentType)
	}
	client, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: f.caPEM}})
	if err != nil {
		t.Error(err)
		return "", nil
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return "", nil
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 || len(body) == 0 {
		t.Errorf("%s: %d, %q, %v", asked.Name, resp.StatusCode, body, err)
	}
	return resp.Header.Get("Content-Type"), body
}

// populateFully creates an object of each kind, in which each field that gateways get has a value, and changes
// each of them. It returns the version before the changes.
func (f *fixture) populateFully(t *testing.T) (since string) {
	t.Helper()
	named := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid-of-" + name), Generation: 3,
			CreationTimestamp: metav1.NewTime(time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)),
		}
	}
	mapping := &v1alpha1.Mapping{ObjectMeta: named("web"), Spec: v1alpha1.MappingSpec{
		Addresses: []string{"198.51.100.10", "2001:db8:1::10"}, AddressesFrom: []v1alpha1.AddressSource{{Uplink: "eth1"}},
		AllowedSources: []string{"192.0.2.0/24", "2001:db8:c::/64"}, ServiceName: "web", Mode: v1alpha1.ModeEndpoints,
		Masquerade: ptr.To(false), Egress: true,
		Ports: []v1alpha1.MappingPort{{Port: 443}, {Port: 20000, EndPort: ptr.To[int32](20999), ServicePort: 30000, Protocol: v1alpha1.ProtocolUDP}},
	}}
	// The entry that the report of the gateway has too.
	mapping.Status = v1alpha1.MappingStatus{Instances: []v1alpha1.InstanceStatus{{
		Name: "gateway.x509", Addresses: []string{"198.51.100.10"}, Uplinks: []string{"eth1"}, Endpoints: 2, ObservedGeneration: 3, Programmed: true,
		Reason: "PortConflict", Problems: []string{"198.51.100.10:80/tcp belongs to default/other"},
	}}}
	service := &corev1.Service{ObjectMeta: named("web"), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00:96::10"},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, SessionAffinity: corev1.ServiceAffinityClientIP,
		SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](600)}},
		InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyCluster),
		Ports:                 []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(8443)}},
	}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: named("web-1"), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8443)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.1.10"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}},
			{Addresses: []string{"10.244.2.10"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}},
		},
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
	grant := &v1alpha1.PortGrant{ObjectMeta: named("web"), Spec: v1alpha1.PortGrantSpec{
		Addresses: []string{"198.51.100.0/24", "2001:db8:1::10"}, Ports: []v1alpha1.GrantedPorts{{Port: 20000, EndPort: ptr.To[int32](20999), Protocol: v1alpha1.ProtocolUDP}},
		Namespaces: []string{"shop"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}},
		AllowedSources: []string{"192.0.2.0/24"}, MaxPorts: 10, Egress: true, EndpointsWithoutSelector: true, ReservedPorts: true, Priority: 5,
	}}
	namespace := &corev1.Namespace{ObjectMeta: named("shop")}
	grant.Namespace, namespace.Namespace, namespace.Labels = "", "", map[string]string{"tier": "gold", "team": "web"}
	// One after the other, so that each has the same version in every run.
	stores := []*watchcache.Resource{f.cache.Mappings(), f.cache.Services(), f.cache.EndpointSlices(), f.cache.PortGrants(), f.cache.Namespaces()}
	add := func() {
		for i, object := range []any{mapping.DeepCopy(), service.DeepCopy(), slice.DeepCopy(), grant.DeepCopy(), namespace.DeepCopy()} {
			if err := stores[i].Store().Update(object); err != nil {
				t.Fatal(err)
			}
		}
	}
	add()
	_, now := f.cache.EndpointSlices().List()
	mapping.Spec.AllowedSources = mapping.Spec.AllowedSources[:1]
	service.Spec.SessionAffinity, service.Spec.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
	slice.Endpoints = slice.Endpoints[:1]
	grant.Spec.Priority = 0
	delete(namespace.Labels, "team")
	add()
	return now.String()
}
