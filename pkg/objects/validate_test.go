// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

const injection = "x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#"

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.Unix(1700000000, 0)}
}

func mapping(namespace, name string) *v1alpha1.Mapping {
	return &v1alpha1.Mapping{ObjectMeta: meta(namespace, name)}
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(namespace, name)}
}

func slice(namespace, name, of string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name)}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: of}
	return s
}

func TestValidate(t *testing.T) {
	long, longest := strings.Repeat("a", 63), strings.Repeat(strings.Repeat("a", 62)+".", 4)+"a"
	withSpec := func(spec v1alpha1.MappingSpec) *v1alpha1.Mapping {
		m := mapping("default", "echo")
		m.Spec = spec
		return m
	}
	withPort := func(port corev1.ServicePort) *corev1.Service {
		s := service("default", "echo")
		s.Spec.Ports = []corev1.ServicePort{{Name: "http"}, port}
		return s
	}
	withAddress := func(address string) *discoveryv1.EndpointSlice {
		s := slice("default", "echo-x7k2p", "echo")
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.10", address}, NodeName: new("node-1")}}
		return s
	}
	for _, test := range []struct {
		name   string
		object metav1.Object
		want   string // part of the error; no error if empty
	}{
		{"a Mapping", mapping("default", "echo"), ""},
		{"a subdomain", mapping(long, longest), ""},
		{"a Service", service("1st", "8080-echo"), ""},
		{"a slice", slice("default", "echo.2-x7k2p", "echo"), ""},
		{"a slice of nothing", slice("default", "echo-x7k2p", ""), ""},
		{"any printable text", withSpec(v1alpha1.MappingSpec{ServiceName: "é ~", Addresses: []string{"no address"}}), ""},

		{"a name of several lines", mapping("default", injection), `metadata.name: "x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#": a lowercase RFC 1123 subdomain`},
		{"a namespace of several lines", mapping(injection, "echo"), `metadata.namespace: "x\nCOMMIT`},
		{"capitals", mapping("default", "Echo"), "metadata.name"},
		{"a path", mapping("default", "a/b"), "metadata.name"},
		{"no name", mapping("default", ""), "metadata.name"},
		{"no namespace", service("", "echo"), "metadata.namespace"},
		{"a namespace of several labels", service("a.b", "echo"), "metadata.namespace"},
		{"a long name", mapping("default", longest+"a"), "must be no more than 253"},
		{"a very long name", mapping("default", strings.Repeat("\x1b", 1<<20)), "metadata.name"},
		{"a Service of several labels", service("default", "a.b"), "metadata.name"},
		{"a long Service", service("default", long+"a"), "must be no more than 63"},
		{"a slice of a Service of several lines", slice("default", "echo-x7k2p", injection), "metadata.labels[kubernetes.io/service-name]"},
		{"a slice of an impossible Service", slice("default", "echo-x7k2p", "a.b"), "metadata.labels[kubernetes.io/service-name]"},
		{"an escape sequence as an address", withSpec(v1alpha1.MappingSpec{Addresses: []string{"\x1b[2J"}}), `spec.addresses: "\x1b[2J" holds characters`},
		{"C1 in UTF-8", withSpec(v1alpha1.MappingSpec{ServiceName: "\u009b2J"}), "spec.serviceName"},
		{"another writing direction", withSpec(v1alpha1.MappingSpec{ServiceName: "\u202eohce"}), "spec.serviceName"},
		{"no UTF-8", withSpec(v1alpha1.MappingSpec{AllowedSources: []string{"\xff"}}), "spec.allowedSources"},
		{"a new line in a port's name", withPort(corev1.ServicePort{Name: "a\nb"}), "spec.ports.name"},
		{"a new line in a port's protocol", withPort(corev1.ServicePort{Protocol: "TCP\n"}), "spec.ports.protocol"},
		{"a new line in an endpoint", withAddress("10.0.0.1\n"), "endpoints.addresses"},
		{"another kind", &corev1.Pod{ObjectMeta: meta("default", "echo")}, "a gateway reads no *v1.Pod"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Validate(test.object)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %s", err, test.want)
			}
			for what, text := range map[string]string{"the error": err.Error(), "the name": ID(test.object)} {
				if !printable(text) || len(text) > 1500 {
					t.Errorf("%s has %d bytes: %q", what, len(text), text[:min(len(text), 2000)])
				}
			}
		})
	}
}

func TestID(t *testing.T) {
	for _, test := range []struct {
		object metav1.Object
		want   string
	}{
		{mapping("default", "echo"), `Mapping "default/echo"`},
		{slice("default", "a\nb", ""), `EndpointSlice "default/a\nb"`},
		{service("é", strings.Repeat("x", 400)), `Service "\u00e9/` + strings.Repeat("x", 78) + `"...`},
	} {
		if got := ID(test.object); got != test.want {
			t.Errorf("named %s, want %s", got, test.want)
		}
	}
}

// FuzzValidate checks that accepted objects are printable, and that errors and IDs are one line of bounded length.
func FuzzValidate(f *testing.F) {
	f.Add("default", "echo", "echo", "10.0.0.1")
	f.Add("default", injection, injection, "\x1b")
	f.Fuzz(func(t *testing.T, namespace, name, of, address string) {
		s := slice(namespace, name, of)
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{address}}}
		err := Validate(s)
		if err == nil && !printable(namespace+name+of+address) {
			t.Fatalf("%q, %q, %q, %q are accepted", namespace, name, of, address)
		}
		if err != nil && (!printable(err.Error()) || len(err.Error()) > 3000) {
			t.Errorf("%d bytes: %q", len(err.Error()), err)
		}
		if id := ID(s); !printable(id) || len(id) > 1500 {
			t.Errorf("%d bytes: %q", len(id), id)
		}
	})
}
