// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// marker occurs in every part of a request that a client controls.
const marker = "TELL-IT-TO-THE-LOG"

// logged is a log that a test may read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newLogged starts a relay and captures its log, including that of the Kubernetes libraries.
func newLogged(t *testing.T, level logrus.Level) (*fixture, *logged) {
	t.Helper()
	log := &logged{}
	klog.LogToStderr(false)
	klog.SetOutput(log)
	t.Cleanup(func() { klog.LogToStderr(true) })
	f := newFixture(t, func(c *Config) {
		logger := logrus.New()
		logger.SetOutput(log)
		logger.SetLevel(level)
		c.Log = logger
	})
	return f, log
}

// malformed are requests with a part that does not parse.
var malformed = []string{
	"GET /api/v1/services?limit=" + marker,
	"GET /api/v1/services?watch=" + marker + "&timeoutSeconds=" + marker,
	"GET /api/v1/services?fieldSelector=" + marker,
	"GET /api/v1/services?labelSelector=%28" + marker,
	"GET /api/v1/services?x=1;" + marker,
	"GET /api/v1/watch?" + marker + "=1",
	"GET /api/v1/watch/" + marker,
	"GET /" + marker + "%0a?" + marker,
	"GET /apis/" + marker + "/v1/" + marker + "?limit=" + marker,
	marker + " /api/v1/services?limit=" + marker,
	"DELETE /api/v1/services?gracePeriodSeconds=" + marker,
	"PATCH " + mappingsPath + "/" + marker + "?fieldManager=" + marker,
}

// say sends a hand-written, possibly malformed request and waits for the response.
func (f *fixture) say(t *testing.T, line, token string) {
	t.Helper()
	conn := f.dialTLS(t)
	if token != "" {
		token = "Authorization: Bearer " + token + "\r\n"
	}
	if _, err := io.WriteString(conn, line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nUser-Agent: "+marker+"\r\nX-"+marker+": x\r\nAccept: "+
		marker+"\r\n"+token+"\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// TestAStrangerDoesNotWriteTheLog proves that an unauthenticated client causes no log lines, and that at debug level the
// lines hold nothing that it sent.
func TestAStrangerDoesNotWriteTheLog(t *testing.T) {
	for _, level := range []logrus.Level{logrus.InfoLevel, logrus.DebugLevel} {
		t.Run(level.String(), func(t *testing.T) {
			f, log := newLogged(t, level)
			f.served(t)
			before := len(log.String())
			for _, line := range malformed {
				f.say(t, line, "")
				f.say(t, line, marker)
			}
			for _, hello := range []*tls.Config{
				{InsecureSkipVerify: true, NextProtos: []string{marker}},
				{InsecureSkipVerify: true, ServerName: marker + ".example"},
				{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11},
			} {
				_ = tls.Client(f.dial(t), hello).Handshake()
			}
			_, _ = io.WriteString(f.dial(t), "GET /"+marker+" HTTP/1.1\r\n\r\n")
			f.stop() // all requests are finished then
			said := log.String()[before:]
			if level == logrus.DebugLevel {
				// The TLS library may quote the handshake, in a line of bounded length.
				said = withoutHandshakes(said)
				if !strings.Contains(said, "refused=unauthenticated") {
					t.Errorf("the log has no line about refused requests:\n%s", said)
				}
			} else {
				said = withoutEnding(said)
				if said != "" {
					t.Errorf("an unauthenticated client caused log lines:\n%s", said)
				}
			}
			if strings.Contains(said, marker) {
				t.Errorf("the log holds data of an unauthenticated client:\n%s", said)
			}
		})
	}
}

// TestQueriesAreNotLogged proves that the log holds no queries and no headers of authenticated clients either.
func TestQueriesAreNotLogged(t *testing.T) {
	f, log := newLogged(t, logrus.DebugLevel)
	for _, line := range malformed {
		if _, target, _ := strings.Cut(line, " "); strings.Contains(strings.Split(target, "?")[0], marker) || strings.HasPrefix(line, marker) {
			continue // the log does hold method and path of an authenticated client
		}
		f.say(t, line, gatewayToken)
		f.say(t, line, strangerToken)
	}
	f.stop()
	if said := log.String(); strings.Contains(said, marker) || !strings.Contains(said, "user=gateway") {
		t.Errorf("the log holds a query or a header, or no request:\n%s", said)
	}
}

func withoutHandshakes(said string) string { return without(said, "TLS handshake error") }

func withoutEnding(said string) string { return without(said, "shutting down") }

// without removes the lines that contain text.
func without(said, text string) string {
	var kept []string
	for _, line := range strings.Split(said, "\n") {
		if !strings.Contains(line, text) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// TestPathsThatNameTheirVerb proves that a path that names its verb is refused before authorization.
func TestPathsThatNameTheirVerb(t *testing.T) {
	f := newFixture(t, nil)
	f.populate(t)
	for _, path := range []string{
		"/api/v1/watch/services/mapped?fieldSelector=metadata.name!%3Dx", "/api/v1/watch/services", "/api/v1/watch", "/api/v1/proxy/services/mapped",
		mappingsPath[:len(mappingsPath)-len("/mappings")] + "/watch/mappings/web", "//api/v1/watch/namespaces/shop/services/",
	} {
		for _, token := range []string{gatewayToken, strangerToken} {
			resp, body := f.do(t, http.MethodGet, path, as(token))
			if resp.status != http.StatusNotFound || !strings.Contains(string(body), "?watch=true") || !strings.Contains(string(body), `"kind":"Status"`) {
				t.Errorf("GET %s: %d %s", path, resp.status, body)
			}
		}
		if resp, _ := f.do(t, http.MethodGet, path, as("")); resp.status != http.StatusUnauthorized {
			t.Errorf("GET %s without a credential: %d", path, resp.status)
		}
	}
}
