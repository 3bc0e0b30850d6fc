// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/scripts/lab"
)

// lockHeld is longer than two attempts of smartnatd to get the lock.
var lockHeld = flag.Duration("pathologies.lock", 30*time.Second, "how long another program holds the lock of iptables")

func TestPathologiesLegacy(t *testing.T)   { testPathologies(t, legacy) }
func TestPathologiesNFTables(t *testing.T) { testPathologies(t, native{}) }

// testPathologies runs extreme cases, under traffic to a Mapping that must not notice them.
func testPathologies(t *testing.T, p plane) {
	// The tests create endpoints by hand, even for pods that no node has.
	w := newWorld(t, p, "endpointsWithoutSelector: true\n",
		"backendNetworks: [10.96.0.0/16, 10.244.0.0/15, \"fd00:96::/108\", \"fd00:244::/32\"]\n")
	w.namespace(t, "odd", 2)
	w.mapping(t, "odd", `addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 95, servicePort: 8080}, {port: 95, servicePort: 8080, protocol: udp}]`)
	addresses := []string{lab.Join("198.51.100.12", 95), lab.Join("2001:db8:1::12", 95)}
	for _, address := range addresses {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
		}
	}
	for _, test := range []struct {
		name string
		run  func(ctx context.Context, t *testing.T, w *world)
		// programs is set if the test is about programs of iptables.
		programs bool
	}{
		{"a thousand Mappings at once", testThousandMappings, false},
		{"an endpoint that flaps 50 times a second", testFlapping, false},
		{"a Service with a thousand endpoints", testThousandEndpoints, false},
		{"another program holds the lock", testLockHeld, true},
		{"a program is missing after an upgrade", testProgramMissing, true},
		{"a program that hangs", testProgramHangs, true},
		{"the rules of one Mapping are refused", testRefusedMapping, true},
	} {
		if test.programs && p == (native{}) {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			ctx := timeout(t, 2*time.Minute)
			traffic := startTraffic(ctx, t, w, addresses)
			traffic.awaitRounds(ctx, t, 1)
			test.run(ctx, t, w)
			traffic.awaitRounds(ctx, t, 5)
			traffic.stop(t)
		})
	}
}

func testThousandMappings(ctx context.Context, t *testing.T, w *world) {
	const first, n = 20000, 1000
	client, err := versioned.NewForConfig(w.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	mappings := client.SmartnatV1alpha1().Mappings("odd")
	began, writes := time.Now(), w.plane.writes(ctx, t, w)
	// smartnatd stands still meanwhile: a busy API server would create them one by one.
	if err := w.daemon.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range int32(n) {
		group.Go(func() error {
			_, err := mappings.Create(groupCtx, &v1alpha1.Mapping{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("many-%d", i)},
				Spec: v1alpha1.MappingSpec{
					Addresses: []string{"203.0.113.12"}, ServiceName: "echo", Mode: v1alpha1.ModeEndpoints,
					Ports: []v1alpha1.MappingPort{{Port: first + i, ServicePort: 8080, Protocol: "tcp"}},
				},
			}, metav1.CreateOptions{})
			return err
		})
	}
	if err := errors.Join(group.Wait(), w.daemon.Signal(unix.SIGCONT)); err != nil {
		t.Fatal(err)
	}
	created := time.Since(began)
	for i := range uint16(n) {
		w.await(t, lab.Client, "tcp", lab.Join("203.0.113.12", first+i), nil)
	}
	written := writes()
	t.Logf("%d Mappings created in %v, all in effect after %v, %d writes of rules", n, created, time.Since(began), written)
	if written == 0 || written > n/2 {
		t.Errorf("%d writes of rules for %d Mappings, want few", written, n)
	}
}

// handmade creates a Service without selector, whose endpoints only the test writes, and a Mapping to it.
func (w *world) handmade(t *testing.T, name string, port uint16) {
	t.Helper()
	w.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: odd}\nspec: {ports: [{port: 8080}]}\n", name))
	w.apply(t, mappingYAML("odd", name, fmt.Sprintf(`addresses: [203.0.113.12], serviceName: %s, mode: endpoints, ports: [{port: %d, servicePort: 8080}]`, name, port)))
}

func slice(service, name string, addresses ...string) *discoveryv1.EndpointSlice {
	port, protocol, none := int32(8080), corev1.ProtocolTCP, ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "odd", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &none, Port: &port, Protocol: &protocol}},
	}
	for _, address := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
	}
	return s
}

func testFlapping(ctx context.Context, t *testing.T, w *world) {
	const changes = 200
	w.handmade(t, "flapping", 96)
	pods := [2]string{w.podAddress(t, "odd", podName(0)), w.podAddress(t, "odd", podName(1))}
	slices := w.Kube().DiscoveryV1().EndpointSlices("odd")
	if _, err := slices.Create(ctx, slice("flapping", "flapping", pods[0]), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	address := lab.Join("203.0.113.12", 96)
	w.await(t, lab.Client, "tcp", address, func(a lab.Answer) bool { return a.Pod == podName(0) })
	writes := w.plane.writes(ctx, t, w)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for i := range changes {
		<-ticker.C
		now := []string{pods[0]}
		switch {
		case i == changes-1:
			now = pods[1:] // no earlier change led to it
		case i%2 == 1:
			now = nil
		}
		if _, err := slices.Update(ctx, slice("flapping", "flapping", now...), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	last := time.Now()
	w.await(t, lab.Client, "tcp", address, func(a lab.Answer) bool { return a.Pod == podName(1) })
	written := writes()
	t.Logf("%d changes at 50/s: the last in effect after %v, %d writes of rules", changes, time.Since(last), written)
	// Of the change before, all but the first write may still come.
	each := w.plane.writesPerChange()
	if most := changes*each + each - 1; written == 0 || written > most {
		t.Errorf("%d writes of rules for %d changes, want 1 to %d", written, changes, most)
	}
	for range 20 {
		if answer := w.await(t, lab.Client, "tcp", address, nil); answer.Pod != podName(1) {
			t.Fatalf("%s answered, want only the newest endpoint", answer.Pod)
		}
	}
}

func testThousandEndpoints(ctx context.Context, t *testing.T, w *world) {
	w.handmade(t, "large", 97)
	began := time.Now()
	for i := range 10 {
		var addresses []string
		for j := range 100 {
			addresses = append(addresses, fmt.Sprintf("10.245.%d.%d", i, j+1))
		}
		if _, err := w.Kube().DiscoveryV1().EndpointSlices("odd").Create(ctx, slice("large", fmt.Sprintf("large-%d", i), addresses...), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		rules, err := w.plane.rules(ctx, w.Host(lab.Gateway))
		before, _, _ := strings.Cut(w.plane.to("ADDRESS"), "ADDRESS")
		if n := strings.Count(rules, before+"10.245."); err == nil && n != 1000 {
			err = fmt.Errorf("%d ways to endpoints, want 1000", n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("in effect after %v", time.Since(began))
	w.kubectl(t, "delete", "mapping", "large", "--namespace=odd")
}

// testLockHeld changes a Mapping several times while the lock is held: only the last state may come into effect.
func testLockHeld(ctx context.Context, t *testing.T, w *world) {
	skip := len(w.daemon.Log())
	holder, err := w.Host(lab.Gateway).Start("flock", nil, "flock", "--no-fork", "/run/xtables.lock", "sleep", "600")
	if err != nil {
		t.Fatal(err)
	}
	released := time.Now().Add(*lockHeld)
	for port := 98; port <= 100; port++ {
		w.apply(t, mappingYAML("odd", "locked", fmt.Sprintf(`addresses: [203.0.113.12], serviceName: echo, mode: endpoints, ports: [{port: %d, servicePort: 8080}]`, port)))
	}
	w.awaitLog(ctx, t, skip, "failed to program everything", "another program holds the lock")
	time.Sleep(time.Until(released))
	if err := holder.Kill(); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	w.awaitLogFor(ctx, t, time.Minute, skip, "programmed")
	w.await(t, lab.Client, "tcp", lab.Join("203.0.113.12", 100), nil)
	t.Logf("in effect %v after the lock was free", time.Since(freed))
	for _, port := range []uint16{98, 99} {
		w.awaitRefusal(t, lab.Client, "tcp", lab.Join("203.0.113.12", port)) // by the host itself, like any port without a Mapping
	}
}

// testProgramMissing removes the program of one family: the other family must still be programmed.
func testProgramMissing(ctx context.Context, t *testing.T, w *world) {
	skip := len(w.daemon.Log())
	program, back := w.takeAway(ctx, t, "ip6tables-restore")
	w.apply(t, mappingYAML("odd", "upgraded", `addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints, ports: [{port: 101, servicePort: 8080}]`))
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 101), nil)
	w.awaitLog(ctx, t, skip, "failed to program everything", "IPv6", program)
	back()
	w.await(t, lab.Client, "tcp", lab.Join("2001:db8:1::12", 101), nil)
}

// takeAway removes a program from the gateway, and returns its path and a function that restores it.
func (w *world) takeAway(ctx context.Context, t *testing.T, name string) (path string, back func()) {
	t.Helper()
	gateway := w.Host(lab.Gateway)
	out, err := gateway.Exec(ctx, "sh", "-c", "command -v "+name)
	if err != nil {
		t.Fatal(err)
	}
	path = strings.TrimSpace(out)
	move := func(from, to string) {
		t.Helper()
		if _, err := gateway.Exec(ctx, "mv", from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(path, path+".away")
	return path, func() { t.Helper(); move(path+".away", path) }
}

// givenUp is how long smartnatd waits for a program that hangs.
const givenUp = time.Minute + 5*time.Second

// testProgramHangs makes the program of one family hang: the other family waits for that once, and then no more.
func testProgramHangs(ctx context.Context, t *testing.T, w *world) {
	skip := len(w.daemon.Log())
	program, back := w.takeAway(ctx, t, "ip6tables-restore")
	if _, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", fmt.Sprintf("printf '#!/bin/sh\\nexec sleep infinity\\n' > %[1]s; chmod +x %[1]s", program)); err != nil {
		t.Fatal(err)
	}
	change := func(port uint16) time.Time {
		t.Helper()
		started := time.Now()
		w.apply(t, mappingYAML("odd", "hanging", fmt.Sprintf(`addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints, ports: [{port: %d, servicePort: 8080}]`, port)))
		return started
	}
	change(102)
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 102), nil)
	changed := change(103)
	w.awaitLogFor(ctx, t, givenUp+patience, skip, "failed to program everything", "a program hung until", program)
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 103), nil)
	t.Logf("in effect after %v, while the program hung", time.Since(changed))
	changed = change(104)
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 104), nil)
	t.Logf("in effect after %v, with the family left alone", time.Since(changed))
	// smartnatd would retry the family by itself only minutes later.
	back()
	if err := w.daemon.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", lab.Join("2001:db8:1::12", 104), nil)
}
