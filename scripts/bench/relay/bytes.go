// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// encoding is an encoding for lists.
type encoding struct {
	Name   string `json:"name"`
	accept string
	gzip   bool
}

func encodings() []encoding {
	return []encoding{
		{"JSON", runtime.ContentTypeJSON + profile, false},
		{"JSON, gzip", runtime.ContentTypeJSON + profile, true},
		{"protobuf", asGateways, false},
		{"protobuf, gzip", asGateways, true},
	}
}

// Lists are the bytes received for whole lists including TLS, with a connection for each kind.
type Lists struct {
	encoding
	APIServer map[string]int64 `json:"apiServer"`
	Relay     map[string]int64 `json:"relay"`
}

func sum(byKind map[string]int64) (n int64) {
	for _, bytes := range byKind {
		n += bytes
	}
	return n
}

// share returns the size of a gateway's first sync through the relay, relative to listing all Services and EndpointSlices at
// the API server.
func (l Lists) share() float64 { return float64(sum(l.Relay)) / float64(sum(l.APIServer)) }

// lists requests what a gateway needs from both servers: all Services and EndpointSlices from the API server, and also
// Mappings from the relay.
func (w *world) lists(ctx context.Context, api, relay server, token string) (all []Lists, err error) {
	for _, e := range encodings() {
		l := Lists{encoding: e}
		if l.APIServer, err = w.list(ctx, api, token, e, services, endpointSlices); err != nil {
			return nil, err
		}
		if l.Relay, err = w.list(ctx, relay, token, e, kinds...); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (w *world) list(ctx context.Context, s server, token string, e encoding, kinds ...string) (map[string]int64, error) {
	received := map[string]int64{}
	for _, kind := range kinds {
		c := w.newClient(s, token)
		response, err := c.get(ctx, kind, e.accept, e.gzip)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
		c.close()
		if err != nil {
			return nil, fmt.Errorf("listing %s at %s: %w", kind, s.name, err)
		}
		received[kind] = c.received.Load()
	}
	return received, nil
}

// versions returns the current resource version of each kind at the API server.
func (c *client) versions(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	for _, kind := range kinds {
		response, err := c.get(ctx, kind+"?limit=1", runtime.ContentTypeJSON, false)
		if err != nil {
			return nil, fmt.Errorf("reading the version of %s: %w", kind, err)
		}
		var list struct {
			metav1.ListMeta `json:"metadata"`
		}
		err = json.NewDecoder(response.Body).Decode(&list)
		_ = response.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the version of %s: %w", kind, err)
		}
		all[kind] = list.ResourceVersion
	}
	return all, nil
}
