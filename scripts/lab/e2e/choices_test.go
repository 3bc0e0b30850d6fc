// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func affineService(namespace string, seconds int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: %s}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: echo}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: %d}}
  ports:
  - {name: tcp, port: 8080, protocol: TCP}
  - {name: udp, port: 8080, protocol: UDP}
`, namespace, seconds)
}

// testAffinity checks that a client keeps its pod until the pod is gone or the timeout expires.
func testAffinity(t *testing.T, w *world) {
	w.namespace(t, "affinity", 3)
	w.apply(t, affineService("affinity", 600))
	w.mapping(t, "affinity", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 1300, servicePort: 8080}, {port: 1300, servicePort: 8080, protocol: udp}]`)
	ctx := timeout(t, time.Minute)
	// Without affinity, the probability that 20 connections go to one of three pods is 1e-9.
	stays := func(client, protocol, address string) (pod string) {
		t.Helper()
		for range 20 {
			answer, err := w.echo(ctx, client, protocol, address)
			if err != nil {
				t.Fatal(err)
			}
			if pod == "" {
				pod = answer.Pod
			}
			if answer.Pod != pod {
				t.Fatalf("%s to %s by %s: %s answered, and then %s", client, address, protocol, pod, answer.Pod)
			}
		}
		return pod
	}
	met := map[string]string{}
	for _, external := range []string{"198.51.100.12", "203.0.113.12", "2001:db8:1::12"} {
		for _, protocol := range protocols {
			address := lab.Join(external, 1300)
			w.await(t, lab.Client, protocol, address, nil)
			for _, client := range []string{lab.Client, lab.Client2} {
				pod := stays(client, protocol, address)
				// The two families have different endpoints, so a client has a pod in each.
				who := fmt.Sprintf("%s/%t", client, strings.Contains(external, ":"))
				if first, ok := met[who]; ok && first != pod {
					t.Errorf("%s has pod %s, but %s by %s to %s: want one pod for all ports of the Service", client, first, pod, protocol, address)
				}
				met[who] = pod
			}
		}
	}
	address := lab.Join("198.51.100.12", 1300)
	old := stays(lab.Client, "tcp", address)
	if err := w.RemovePod(ctx, "affinity", old); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", address, func(a lab.Answer) bool { return a.Pod != old })
	stays(lab.Client, "tcp", address)
	t.Run("until the timeout", func(t *testing.T) {
		w.apply(t, affineService("affinity", 1))
		pod := ""
		if err := lab.Poll(timeout(t, 2*patience), func(ctx context.Context) error {
			answer, err := w.echo(ctx, lab.Client, "tcp", address)
			if err != nil || answer.Pod == pod || pod == "" {
				pod = answer.Pod
				<-timeout(t, 2100*time.Millisecond).Done() // the client is silent for longer than the timeout of the Service
				return errors.Join(err, fmt.Errorf("%s answered again", pod))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// testRanges checks ranges of ports, with and without an offset.
func testRanges(t *testing.T, w *world) {
	ctx := timeout(t, patience)
	if err := w.CreateNamespace(ctx, "ranges"); err != nil {
		t.Fatal(err)
	}
	for i, node := range []string{lab.Node1, lab.Node2} {
		if _, err := w.AddPod(ctx, lab.Pod{
			Namespace: "ranges", Name: podName(i), Node: node, Labels: map[string]string{"app": "echo"},
			Ports: []uint16{8080, 20000, 20001, 20099, 30000, 30050, 30099},
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: ranges}\n"+
		"spec: {ipFamilyPolicy: PreferDualStack, selector: {app: echo}, ports: [{port: 8080}]}\n")
	w.mapping(t, "ranges", `addresses: [198.51.100.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints, ports: [
		{port: 20000, endPort: 20099}, {port: 20000, endPort: 20099, protocol: udp},
		{port: 21000, endPort: 21099, servicePort: 30000}, {port: 21000, endPort: 21099, servicePort: 30000, protocol: udp}]`)
	for _, external := range []string{"198.51.100.12", "2001:db8:2::12"} {
		for _, protocol := range protocols {
			for port, want := range map[uint16]uint16{20000: 20000, 20001: 20001, 20099: 20099, 21000: 30000, 21050: 30050, 21099: 30099} {
				seen := map[string]bool{}
				answer := w.await(t, lab.Client, protocol, lab.Join(external, port), func(a lab.Answer) bool { seen[a.Pod] = true; return len(seen) == 2 })
				if answer.Port != want {
					t.Errorf("%s:%d/%s led to the pods' port %d, want %d", external, port, protocol, answer.Port, want)
				}
			}
			w.awaitRefusal(t, lab.Client, protocol, lab.Join(external, 19999))
			w.awaitRefusal(t, lab.Client, protocol, lab.Join(external, 21100))
		}
	}
}
