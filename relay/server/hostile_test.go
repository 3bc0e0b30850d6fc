// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// dial opens a TCP connection to a relay.
func (f *fixture) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialTLS opens a TLS connection for hand-written HTTP/1.1.
func (f *fixture) dialTLS(t *testing.T) net.Conn {
	t.Helper()
	conn := tls.Client(f.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// served fails the test unless a gateway gets a response.
func (f *fixture) served(t *testing.T) {
	t.Helper()
	if resp, body := f.do(t, http.MethodGet, mappingsPath, as(gatewayToken)); resp.status != http.StatusOK {
		t.Fatalf("a gateway got %d: %s", resp.status, body)
	}
}

func TestVersionsOfTLS(t *testing.T) {
	for _, test := range []struct {
		name    string
		min     uint16 // the relay's minimum
		client  *tls.Config
		refused bool
	}{
		{"1.3 by default", 0, &tls.Config{MinVersion: tls.VersionTLS13}, false},
		{"1.2 not by default", 0, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.2 if allowed", tls.VersionTLS12, &tls.Config{MaxVersion: tls.VersionTLS12}, false},
		{"1.1 never", tls.VersionTLS12, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, true},
		{"1.2 without forward secrecy", tls.VersionTLS12, &tls.Config{MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384}}, true},
		{"1.2 with CBC", tls.VersionTLS12, &tls.Config{MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, func(c *Config) { c.MinTLSVersion = test.min })
			config := test.client.Clone()
			config.InsecureSkipVerify = true
			err := tls.Client(f.dial(t), config).Handshake()
			if refused := err != nil; refused != test.refused {
				t.Errorf("Handshake() = %v, want refused: %v", err, test.refused)
			}
		})
	}
}

// TestGarbage proves that malformed input gets at most a short error, and that the next client is served.
func TestGarbage(t *testing.T) {
	f := newFixture(t, nil)
	long := strings.Repeat("x", 2*maxHeaderBytes)
	for _, test := range []struct {
		name string
		tls  bool
		send string
		want string // the first line of the response, or empty
	}{
		{"noise instead of a handshake", false, "\x00\xff\x13\x37" + long, ""},
		{"a truncated handshake", false, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""},
		{"an oversized record", false, "\x16\x03\x01\xff\xff" + long, ""},
		{"HTTP without TLS", false, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.0 400 Bad Request"},
		{"noise instead of a request", true, "\x00\xff\x13\x37\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"an unknown version", true, "GET / HTTP/9.9\r\nHost: x\r\n\r\n", "HTTP/1.1 505 HTTP Version Not Supported: unsupported protocol version"},
		{"two lengths", true, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 400 Bad Request"},
		{"a length and chunks", true, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\nxx", "HTTP/1.1 501 Not Implemented"},
		{"two hosts", true, "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"an oversized header", true, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + long + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		{"an oversized path", true, "GET /" + long + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		{"a proxy request", true, "CONNECT kubernetes.default:443 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 401 Unauthorized"},
		{"another site", true, "GET https://kubernetes.default/api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 401 Unauthorized"},
		{"an upgrade", true, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 401 Unauthorized"},
		{"HTTP/2 without negotiation", true, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 401 Unauthorized"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := f.dial(t)
			if test.tls {
				conn = f.dialTLS(t)
			}
			// The relay may close the connection before it has read everything.
			_, _ = io.WriteString(conn, test.send)
			if closer, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = closer.CloseWrite()
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			got := strings.TrimSpace(line)
			if !strings.HasPrefix(got, "HTTP/") {
				got = "" // a TLS alert
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			f.served(t)
		})
	}
}

// TestThoseWhoOnlyWaitKeepNobodyOut proves that clients which hold connections at any stage cannot lock others out, and
// that the relay keeps no more connections than its limit.
func TestThoseWhoOnlyWaitKeepNobodyOut(t *testing.T) {
	const room, crowd = 20, 60
	for _, test := range []struct {
		name string
		wait func(*testing.T, *fixture)
	}{
		{"silent", func(t *testing.T, f *fixture) { f.dial(t) }},
		{"half a handshake", func(t *testing.T, f *fixture) { _, _ = io.WriteString(f.dial(t), "\x16\x03\x01\x02") }},
		{"half a request", func(t *testing.T, f *fixture) {
			_, _ = io.WriteString(f.dialTLS(t), "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		}},
		{"slow body", func(t *testing.T, f *fixture) {
			_, _ = io.WriteString(f.dialTLS(t), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var config *Config
			f := newFixture(t, func(c *Config) {
				c.Limits = DefaultLimits()
				c.Limits.Connections = room
				config = c
			})
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
			t.Cleanup(client.CloseIdleConnections)
			next := openWatch(t, client, "https://"+f.address+mappingsPath+"?watch=1")
			for range crowd {
				test.wait(t, f)
			}
			f.served(t)
			if got := config.count(t, "connections"); got > room {
				t.Errorf("%v open connections, limit is %d", got, room)
			}
			// The watch and the connections within the limit stay.
			if got := config.count(t, "connections_ended_total", "reason=displaced"); got < crowd-room || got > crowd+1 {
				t.Errorf("%v connections displaced by a crowd of %d", got, crowd)
			}
			f.put(t, "a", "old")
			if e := next(); e == nil || e.Type != "ADDED" {
				t.Errorf("%v, want the watch to go on", e)
			}
		})
	}
}

// TestNothingIsLeftOfThoseWhoLeave proves that abandoned watches leave no goroutines behind.
func TestNothingIsLeftOfThoseWhoLeave(t *testing.T) {
	f := newFixture(t, nil)
	f.put(t, "a", "old")
	f.served(t)
	leave := func(t *testing.T, client *http.Client, watches int) {
		for i := range watches {
			ctx, cancel := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+f.address+mappingsPath+"?watch=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = as(gatewayToken)
			if i%2 == 0 {
				cancel()
			}
			resp, err := client.Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			cancel()
		}
		client.CloseIdleConnections()
	}
	// The first one starts goroutines that stay.
	bothProtocols(t, func(t *testing.T, client *http.Client) { leave(t, client, 2) })
	before := 0
	eventually(t, "all goroutines to have begun or ended", func() bool {
		was := before
		before = runtime.NumGoroutine()
		time.Sleep(50 * time.Millisecond)
		return was == before
	})
	bothProtocols(t, func(t *testing.T, client *http.Client) { leave(t, client, 200) })
	eventually(t, fmt.Sprintf("the number of goroutines to return to %d", before), func() bool { return runtime.NumGoroutine() <= before })
	f.served(t)
}

// TestBodies proves that a body is not read beyond its limit and that a slow body times out.
func TestBodies(t *testing.T) {
	read := make(chan error, 1)
	server := httptest.NewServer(withBodyLimit(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, err := io.Copy(io.Discard, req.Body)
		read <- err
	}), 10, 50*time.Millisecond))
	defer server.Close()
	for _, test := range []struct{ name, send, want string }{
		{"short", "Content-Length: 10\r\n\r\n0123456789", ""},
		{"too long", "Content-Length: 11\r\n\r\n0123456789x", "http: request body too large"},
		{"chunked and too long", "Transfer-Encoding: chunked\r\n\r\nb\r\n0123456789x\r\n0\r\n\r\n", "http: request body too large"},
		{"incomplete", "Content-Length: 10\r\n\r\n0", "i/o timeout"},
		{"no body", "\r\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+test.send); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := <-read; err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, test.want) || got != "" && test.want == "" {
				t.Errorf("reading the body: %q, want %q", got, test.want)
			}
		})
	}
}
