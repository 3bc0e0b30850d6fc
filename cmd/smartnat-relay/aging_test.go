// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	applyv1alpha1 "github.com/smartnat/smartnat/generated/applyconfiguration/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/relay/server"
)

// testAging lets gw1 stop reporting about the Mapping zebra while gw2 goes on, and then gw2 too. It uses a timeout of
// seconds, where the flags allow minutes only.
func testAging(t *testing.T, p *controlPlane) {
	const port, timeout = 8445, 10 * time.Second
	// These programs take a while. The time of the silent gw1 begins with the relay.
	p.kubectl("--namespace=smartnat", "create", "serviceaccount", "gw2")
	p.kubectl("create", "clusterrolebinding", "gw2", "--clusterrole=smartnat-gateway", "--serviceaccount=smartnat:gw2")
	token := p.kubectl("--namespace=smartnat", "create", "token", "gw2", "--audience=smartnat-relay")
	options := server.NewOptions()
	options.Kubeconfig, options.BindAddress, options.SecurePort = p.path("relay.kubeconfig"), "127.0.0.1", port
	options.TLSCertFile, options.TLSKeyFile = p.path("relay.crt"), p.path("relay.key")
	options.Status.Accept, options.Status.InstanceTimeout = true, timeout
	log := logrus.New()
	log.SetOutput(t.Output())
	config, err := options.Config(log)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := config.Complete()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	url := "https://" + relay.Addr().String()
	anonymous := p.client("")
	p.eventually("the relay to be ready", func() bool { return get(anonymous, url+"/readyz") == http.StatusOK })

	client, err := versioned.NewForConfig(&rest.Config{
		Host: url, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt")},
		BearerToken: token,
	})
	if err != nil {
		t.Fatal(err)
	}
	report := func() error {
		_, err := client.SmartnatV1alpha1().Mappings("shop").ApplyStatus(t.Context(), applyv1alpha1.Mapping("zebra", "shop").
			WithStatus(applyv1alpha1.MappingStatus().WithInstances(applyv1alpha1.InstanceStatus().WithName("gw2").
				WithAddresses("2001:db8::1").WithObservedGeneration(1).WithProgrammed(true))), metav1.ApplyOptions{FieldManager: "anything", Force: true})
		return err
	}
	cluster, err := versioned.NewForConfig(&rest.Config{Host: clusterURL, TLSClientConfig: rest.TLSClientConfig{
		CAFile: p.path("ca.crt"), CertFile: p.path("admin.crt"), KeyFile: p.path("admin.key"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	// A program would take long enough for a gateway to become silent.
	instances := func() string {
		m, err := cluster.SmartnatV1alpha1().Mappings("shop").Get(t.Context(), "zebra", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range m.Status.Instances {
			names = append(names, i.Name)
		}
		return strings.Join(names, " ")
	}
	p.eventually("the report of gw2 to be accepted", func() bool { return report() == nil })
	if got := instances(); got != "gw1 gw2" {
		t.Errorf("instances %q, want gw1 and gw2", got)
	}
	p.eventually("the silent gw1 to be removed", func() bool {
		if err := report(); err != nil {
			t.Errorf("report of gw2: %v", err)
		}
		return instances() == "gw2"
	})
	for began := time.Now(); time.Since(began) < timeout+time.Second; time.Sleep(200 * time.Millisecond) {
		if err := report(); err != nil {
			t.Errorf("report of gw2: %v", err)
		}
		if got := instances(); got != "gw2" {
			t.Fatalf("instances %q, want gw2, which still reports", got)
		}
	}
	p.eventually("the silent gw2 to be removed", func() bool { return instances() == "" })
	p.kubectl("wait", "--namespace=shop", "--for=condition=Programmed=Unknown", "mapping/zebra", "--timeout=30s")
}
