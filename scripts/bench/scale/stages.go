// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/scripts/lab"
)

// applied is the content of smartnatd's debug log line for one round of its worker: the time of the event that caused it, and
// the milliseconds of each stage.
type applied struct {
	event  time.Time
	stages map[string]float64
}

// stagesBefore are the stages before the write of rules, in order and with their names in the log.
var stagesBefore = []string{"waited", "observe", "calc", "build", "diff"}

// parseApplied parses a log in JSON.
func parseApplied(log string) []applied {
	var all []applied
	for line := range strings.Lines(log) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil || entry["msg"] != "applied" {
			continue
		}
		a := applied{stages: map[string]float64{}}
		if text, ok := entry["event"].(string); ok {
			a.event, _ = time.Parse(time.RFC3339Nano, text) // if missing, the stages before are unknown
		}
		for _, stage := range append([]string{"restore", "cut"}, stagesBefore...) {
			if value, ok := entry[stage].(float64); ok {
				a.stages[stage] = value
			}
		}
		all = append(all, a)
	}
	return all
}

// sightings records when a watch first showed each address of the endpoint.
type sightings struct {
	mu   sync.Mutex
	seen []sighting
}

type sighting struct {
	address string
	at      time.Time
}

// after returns the first sighting of an address after t.
func (s *sightings) after(t time.Time, address string) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.seen {
		if one.address == address && !one.at.Before(t) {
			return one.at, true
		}
	}
	return time.Time{}, false
}

// follow watches the watched object's EndpointSlice until ctx ends.
func (s *sightings) follow(ctx context.Context, client kubernetes.Interface) error {
	options := metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + objectName(watched)}
	w, err := client.DiscoveryV1().EndpointSlices(namespace).Watch(ctx, options)
	if err != nil {
		return fmt.Errorf("watching the EndpointSlice: %w", err)
	}
	go func() {
		defer w.Stop()
		for event := range w.ResultChan() {
			slice, ok := event.Object.(*discoveryv1.EndpointSlice)
			if event.Type != watch.Modified || !ok || len(slice.Endpoints) == 0 {
				continue
			}
			s.mu.Lock()
			s.seen = append(s.seen, sighting{slice.Endpoints[0].Addresses[0], time.Now()})
			s.mu.Unlock()
		}
	}()
	return nil
}

// relayClient returns a client that reads from the relay as the gateway does, from the relay's node.
func (w *world) relayClient() (kubernetes.Interface, error) {
	token, err := w.Host(lab.Gateway).ReadFile("/etc/smartnat/token")
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(&rest.Config{
		Host: "https://10.10.0.11:8443", BearerToken: strings.TrimSpace(token),
		// Only time is measured, on the lab's own links.
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.Host(lab.Node1).Dial(ctx, network, address, 0)
		},
	})
}
