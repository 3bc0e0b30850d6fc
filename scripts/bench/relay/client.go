// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/scripts/lab"
)

// API paths of the resources.
const (
	services       = "/api/v1/services"
	endpointSlices = "/apis/discovery.k8s.io/v1/endpointslices"
	mappings       = "/apis/smartnat.aureacentral.com/v1alpha1/mappings"
)

// kinds are the paths that a gateway watches.
var kinds = []string{mappings, services, endpointSlices}

// The media types that gateways accept: protobuf where available, and from a relay only the fields that they need.
const (
	profile    = ";profile=" + v1alpha1.GatewayProfile
	asGateways = runtime.ContentTypeProtobuf + profile + "," + runtime.ContentTypeJSON + profile
)

// server is one of the two servers to compare.
type server struct {
	name, url string
	process   *lab.Process
}

// client has one connection to a server and counts its bytes including TLS.
type client struct {
	http     *http.Client
	url      string
	token    string
	received atomic.Int64
}

func (w *world) newClient(s server, token string) *client {
	c := &client{url: s.url, token: token}
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)
	c.http = &http.Client{Transport: &http.Transport{
		Protocols:          protocols,
		MaxConnsPerHost:    1,
		TLSClientConfig:    &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13},
		DisableCompression: true, // requests enable it themselves
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			// Dial from the gateway, so that the bytes take the same path as a gateway's.
			socket, err := w.Host(lab.Gateway).Dial(ctx, network, address, 0)
			if err != nil {
				return nil, err
			}
			return &counted{Conn: socket, received: &c.received}, nil
		},
	}}
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// counted counts received bytes.
type counted struct {
	net.Conn
	received *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// refusal is a response with a status other than 200.
type refusal struct {
	status int
	after  time.Duration
}

func (r *refusal) Error() string { return "status " + strconv.Itoa(r.status) }

// get requests a path. The caller closes the response body.
func (c *client) get(ctx context.Context, path, accept string, gzip bool) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Accept", accept)
	if gzip {
		request.Header.Set("Accept-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, response.Body) // the content does not matter
		_ = response.Body.Close()
		after, _ := strconv.Atoi(response.Header.Get("Retry-After")) // 0 if missing
		return nil, &refusal{response.StatusCode, time.Duration(after) * time.Second}
	}
	return response, nil
}

// frames splits a watch response into events, in any encoding. An event over a megabyte is an error.
func frames(response *http.Response) (*bufio.Scanner, error) {
	media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("parsing the media type of a watch: %w", err)
	}
	scanner := bufio.NewScanner(response.Body)
	scanner.Buffer(make([]byte, 4<<10), 1<<20)
	if media == runtime.ContentTypeProtobuf {
		scanner.Split(splitProtobuf)
	}
	return scanner, nil
}

// splitProtobuf splits frames with a length prefix of four bytes.
func splitProtobuf(data []byte, atEOF bool) (advance int, token []byte, err error) {
	const header = 4
	if len(data) >= header {
		if end := header + int(binary.BigEndian.Uint32(data)); len(data) >= end {
			return end, data[header:end], nil
		}
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}
