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
		{"as it is", "", refused, dial},
		{"of a request", "", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/api/v1/services?timeout=9m57s", Err: refused}, dial},
		{"of a request that is wrapped", "", fmt.Errorf("watching: %w", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/", Err: refused}), dial},
		{"an error that names no server", "", &url.Error{Op: "Get", URL: "https://10.10.0.11:8443/", Err: untrusted}, "10.10.0.11:8443: tls: unknown authority"},
		{"a refusal of the server that answered", "10.10.0.12:8443", apierrors.NewUnauthorized("Unauthorized"), "10.10.0.12:8443: Unauthorized"},
	} {
		if got := inShort(test.server, test.err); got != test.want {
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
		{"nothing is wrong", metav1.ListOptions{ResourceVersion: "7"}, nil, false},
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

// TestATooOldVersionIsNoLoss: a gateway comes to another replica, which has never given out the version that it knows.
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
					t.Errorf("%d of 9 versions were not asked for", n)
				}
				if got := names(source.Snapshot()); got != "Mapping echo, Mapping other" {
					t.Errorf("holds %s", got)
				}
				if c, n := source.Contact(), messages(hook, "contact"); n != 0 || c.Lost || c.Failures != 0 {
					t.Errorf("%d lines about contact, want none: %+v", n, c)
				}
			})
		})
	}
}

// TestAHandshakeIsNoContact: that the server does not send all objects in a watch says nothing of the watches that it refuses.
func TestAHandshakeIsNoContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := bareStub(false)
		server.listsOnly = "mappings"
		source, _, hook := wired(t, func() {}, server)
		time.Sleep(10 * time.Minute)
		if n := messages(hook, "contact"); n != 1 || !source.Contact().Lost {
			t.Errorf("%d lines about contact, want one: %+v", n, source.Contact())
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
		{"mappings", "watch", down, "lost contact"},
		{"services", "watch", down, ""},
		{"mappings", "list", down, ""},
		{"services", "list", nil, ""},
		{"mappings", "list", nil, ""},
		{"mappings", "watch", nil, ""},
		{"services", "watch", nil, "contact is back"},
		{"mappings", "list", down, "lost contact"},
		{"mappings", "watch", nil, ""},
		{"mappings", "events", errCutOff, ""},
		{"mappings", "events", nil, "contact is back"},
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
		t.Errorf("back after %v, want 3s", got)
	}
	if diff := cmp.Diff(Contact{Last: clock, Failures: 5}, c.get()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	hook.Reset()
	c.observe(stopped, "", "mappings", "watch", down)
	if hook.LastEntry() != nil {
		t.Error("the end of the program is told as lost contact")
	}
}
