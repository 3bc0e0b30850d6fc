// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// waited is the time after which a hanging program is killed.
const waited = 65 * time.Second

// hang makes the program of a step hang, and counts how often.
func hang(k *iptablestest.Kernel, hangs string) (times *int) {
	times = new(int)
	k.Fail = func(step string) error {
		if step != hangs {
			return nil
		}
		*times++
		time.Sleep(waited)
		return fmt.Errorf("%s: %w, %w", step, gateway.ErrRefused, context.DeadlineExceeded)
	}
	return times
}

// TestAFamilyThatHangsIsLeftAlone expects that a hanging program of one family delays the other family only at intervals.
func TestAFamilyThatHangsIsLeftAlone(t *testing.T) {
	for _, hangs := range []string{"IPv6 save", "IPv6 mangle"} {
		t.Run(hangs, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				d := start(k)
				times := hang(k, hangs)
				hung := func(took time.Duration, runs int) {
					t.Helper()
					started := time.Now()
					_, err := d.Apply(t.Context(), full())
					if err == nil || !strings.Contains(err.Error(), "a program hung until ") || !strings.Contains(err.Error(), hangs) || errors.Is(err, gateway.ErrRefused) {
						t.Fatalf("err = %v", err)
					}
					if since := time.Since(started); since != took || *times != runs {
						t.Fatalf("after %v: it took %v and hung %d times, want %v, %d", started, since, *times, took, runs)
					}
				}
				hung(waited, 1)
				until := time.Now().Add(5 * waited)
				want := fresh(t, full())
				delete(want.Tables.Rulesets, gateway.IPv6)
				want.Sysctls.Values = k.Sysctls.Values // IPv6 is not forwarded yet.
				expectSame(t, want, k)
				for time.Now().Add(5 * time.Second).Before(until) {
					dropTable(k, gateway.IPv4, "nat")
					k.Routes.Set.Rules = nil
					k.Sysctls.Values["net/ipv4/ip_forward"] = "0"
					k.Sets.Members = map[string]ruleset.Set{}
					time.Sleep(5 * time.Second)
					expectChanged(t, d, true)
					d.Verify()
					hung(0, 1)
					expectSame(t, want, k)
				}
				time.Sleep(time.Until(until))
				hung(waited, 2)
				k.Fail = nil
				hung(0, 2)
				time.Sleep(5 * waited)
				apply(t, d, full())
				expectSame(t, fresh(t, full()), k)
			})
		})
	}
}

// TestWhoElseRunsAProgramThatHung expects that Try does not run a program that hung, that a cancelled run does not count as
// hung, and that Cleanup runs the program and returns its error.
func TestWhoElseRunsAProgramThatHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := fresh(t, full())
		d := start(k)
		times := hang(k, "IPv6 save")
		ctx, cancel := context.WithTimeout(t.Context(), waited-time.Second)
		defer cancel()
		for _, ctx := range []context.Context{ctx, t.Context()} {
			if _, err := d.Apply(ctx, full()); err == nil {
				t.Error("the program did not hang")
			}
		}
		if *times != 2 {
			t.Errorf("%d runs, want a second one after the cancelled one", *times)
		}
		k.Tables.Restores = 0
		if err := d.Try(t.Context(), full()); err == nil || errors.Is(err, gateway.ErrRefused) || k.Tables.Restores != 1 {
			t.Errorf("Try: err = %v, %d runs, want the one for IPv4", err, k.Tables.Restores)
		}
		if _, err := d.Cleanup(t.Context()); err == nil || *times != 3 {
			t.Errorf("Cleanup: err = %v, %d runs", err, *times)
		}
		k.Fail = nil
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
