// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/lab"
)

// dumpScript prints all state that smartnatd programs but its rules. Policy rules with the same priority match different marks, so
// their order has no meaning.
const dumpScript = `
ip -4 rule | sort; ip -6 rule | sort
ip -4 route show table all proto 83 | sort; ip -6 route show table all proto 83 | sort
for key in ip_forward conf/all/rp_filter conf/eth0/rp_filter conf/eth1/rp_filter conf/eth2/rp_filter; do
	echo $key $(cat /proc/sys/net/ipv4/$key)
done
for key in conf/all/forwarding conf/default/forwarding conf/eth1/accept_ra conf/eth2/accept_ra fib_multipath_hash_policy; do
	echo $key $(cat /proc/sys/net/ipv6/$key)
done`

// kernel returns the state of the gateway's kernel as text, equal for equal behaviour.
func (w *world) kernel(ctx context.Context) (string, error) {
	rules, err := w.plane.rules(ctx, w.Host(lab.Gateway))
	if err != nil {
		return "", err
	}
	out, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", dumpScript)
	return rules + out, err
}

// settlement bounds how long the kernel may take to reach the desired state.
const settlement = 90 * time.Second

// poll is lab.Poll with that timeout.
func poll(ctx context.Context, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, settlement)
	defer cancel()
	return lab.Poll(ctx, check)
}

// settle waits until the kernel holds the desired state and returns the time of that observation.
func (w *world) settle(ctx context.Context) (time.Time, error) {
	var differs error
	err := poll(ctx, func(ctx context.Context) error {
		have, err := w.kernel(ctx)
		if err != nil {
			return errors.Join(err, differs)
		}
		if diff := cmp.Diff(strings.Split(w.desired[w.canary], "\n"), strings.Split(have, "\n")); diff != "" {
			differs = fmt.Errorf("the kernel differs from the desired state (-desired +kernel):\n%s", diff)
			return differs
		}
		return nil
	})
	return time.Now(), err
}

// learn records the state of the kernel as the desired one, once it has all that the objects ask for and has stopped changing.
func (w *world) learn(ctx context.Context) error {
	before, since := "", time.Now()
	return poll(ctx, func(ctx context.Context) error {
		have, err := w.kernel(ctx)
		if err != nil {
			return err
		}
		if have != before {
			before, since = have, time.Now()
		}
		for _, ip := range w.endpoints {
			if !strings.Contains(have, w.plane.leads(ip)) {
				return fmt.Errorf("no rule leads to the pod %s:\n%s", ip, have)
			}
		}
		if port := canaryPorts[w.canary]; !strings.Contains(have, w.plane.serves(port)) {
			return fmt.Errorf("no rule leads the canary's port %d", port)
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("the kernel still changes")
		}
		w.desired[w.canary] = have
		return nil
	})
}
