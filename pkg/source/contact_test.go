// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestWhyIsShort(t *testing.T) {
	refused := errors.New("dial tcp 10.10.0.11:8443: connect:\n\tconnection refused")
	const dial = "dial tcp 10.10.0.11:8443: connect: connection refused"
	untrusted := errors.New("tls: unknown authority")
	for _, test := range []struct {
		name, server string
		err          error
		want         string
	}{
		{"one line", "", refused, dial},
		{"request error", "", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/api/v1/services?timeout=9m57s", Err: refused}, dial},
		{"wrapped request error", "", fmt.Errorf("watching: %w", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/", Err: refused}), dial},
		{"an error that names no server", "", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/", Err: untrusted}, "10.10.0.11:8443: tls: unknown authority"},
		{"refusal by the server", "10.10.0.12:8443", apierrors.NewUnauthorized("Unauthorized"), "10.10.0.12:8443: Unauthorized"},
	} {
		if got := summarize(test.server, test.err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestIsHandshake(t *testing.T) {
	old, invalid := apierrors.NewResourceExpired("too old"), apierrors.NewInvalid(schema.GroupKind{}, "", nil)
	gone := apierrors.NewGenericServerResponse(http.StatusGone, "", schema.GroupResource{}, "", "", 0, true)
	ahead := apierrors.NewTimeoutError("Too large resource version", 1)
	ahead.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}
	initial := metav1.ListOptions{Watch: true, SendInitialEvents: new(true)}
	for _, test := range []struct {
		name  string
		asked metav1.ListOptions
		err   error
		want  bool
	}{
		{"no error", metav1.ListOptions{ResourceVersion: "7"}, nil, false},
		{"the version is too old", metav1.ListOptions{ResourceVersion: "7"}, old, true},
		{"the version is gone", metav1.ListOptions{ResourceVersion: "7"}, gone, true},
		{"the next page is gone", metav1.ListOptions{Continue: "there"}, old, true},
		{"the version is too large", metav1.ListOptions{ResourceVersion: "7"}, ahead, true},
		{"the latest version is too large", metav1.ListOptions{}, ahead, false},
		{"any version is too old", metav1.ListOptions{ResourceVersion: "0"}, old, false},
		{"the latest version is too old", metav1.ListOptions{}, gone, false},
		{"all objects in a watch are too old", initial, old, false},
		{"no objects in a watch", initial, invalid, true},
		{"a list is invalid", metav1.ListOptions{}, invalid, false},
		{"another error", metav1.ListOptions{ResourceVersion: "7"}, errors.New("connection refused"), false},
	} {
		if got := isHandshake(test.asked, test.err); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

// TestATooOldVersionIsNoLoss simulates a gateway that reaches another replica, which has never assigned the version that
// the gateway knows.
func TestATooOldVersionIsNoLoss(t *testing.T) {
	for name, watchList := range map[string]bool{"sendInitialEvents": true, "list then watch": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := bareStub(watchList)
				server.add("mappings", echoMapping)
				source, wire, hook := wired(t, func() {}, server)
				synctest.Wait()
				server.forget(9)
				wire.cut()
				server.add("mappings", strings.ReplaceAll(echoMapping, `"echo"`, `"other"`))
				time.Sleep(2 * time.Minute)
				if n := server.forget(0); n > 6 {
					t.Errorf("%d of 9 versions were not requested", n)
				}
				if got := names(source.Snapshot()); got != "Mapping echo, Mapping other" {
					t.Errorf("holds %s", got)
				}
				if c, n := source.Contact(), messages(hook, "connect"); n != 0 || c.Lost || c.Failures != 0 {
					t.Errorf("%d log lines about the connection, want none: %+v", n, c)
				}
			})
		})
	}
}

// TestAHandshakeIsNoContact proves that a refused WatchList does not end the failure of a refused watch.
func TestAHandshakeIsNoContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := bareStub(false)
		server.listsOnly = "mappings"
		source, _, hook := wired(t, func() {}, server)
		time.Sleep(10 * time.Minute)
		if n := messages(hook, "connect"); n != 1 || !source.Contact().Lost {
			t.Errorf("%d log lines about the connection, want one: %+v", n, source.Contact())
		}
	})
}

func TestContact(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	c := newContact(log)
	clock := time.Unix(0, 0)
	c.now = func() time.Time { return clock }
	down := errors.New("connection refused")
	for i, step := range []struct {
		resource, verb string
		err            error
		want           string
	}{
		{"mappings", "list", nil, ""},
		{"mappings", "watch", down, "lost connection to server, keeping last known objects"},
		{"services", "watch", down, ""},
		{"mappings", "list", down, ""},
		{"services", "list", nil, ""},
		{"mappings", "list", nil, ""},
		{"mappings", "watch", nil, ""},
		{"mappings", "events", nil, ""},
		{"services", "watch", nil, ""},
		{"services", "events", errCutOff, ""},
		{"services", "watch", nil, ""},
		{"services", "events", nil, "reconnected to server"},
		{"mappings", "list", down, "lost connection to server, keeping last known objects"},
		{"mappings", "watch", nil, ""},
		{"mappings", "events", errCutOff, ""},
		{"mappings", "events", nil, "reconnected to server"},
	} {
		hook.Reset()
		clock = clock.Add(time.Second)
		c.observe(t.Context(), "", step.resource, step.verb, step.err)
		got := ""
		if entry := hook.LastEntry(); entry != nil {
			got = entry.Message
		}
		if (step.want == "") != (got == "") || !strings.Contains(got, step.want) {
			t.Errorf("step %d: logged %q, want %q", i, got, step.want)
		}
	}
	if got := hook.LastEntry().Data["after"]; got != "3s" {
		t.Errorf("reconnected after %v, want 3s", got)
	}
	if diff := cmp.Diff(Contact{Last: clock, Failures: 6}, c.get()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	hook.Reset()
	c.observe(stopped, "", "mappings", "watch", down)
	if hook.LastEntry() != nil {
		t.Error("the end of the program counts as a lost connection")
	}
}
