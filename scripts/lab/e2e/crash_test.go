// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

var (
	crashKills = flag.Int("crash.kills", 50, "number of kills of smartnatd with each data plane")
	crashSeed  = flag.Uint64("crash.seed", 1, "seed of the times and ways of the kills")
)

// anyManners are the ways to kill smartnatd with any data plane. Each data plane adds those in the middle of a write.
var anyManners = []manner{
	{"at any time", killAnyTime},
	{"without its children", killAlone},
	{"while it starts", killStarting},
}

type manner struct {
	name string
	// kill returns once smartnatd is dead. A change is on its way to it at that time.
	kill func(ctx context.Context, w *world, random *rand.Rand) error
}

// testCrashes kills smartnatd repeatedly while Mappings change, under traffic of allowed and of forbidden sources.
func testCrashes(t *testing.T, w *world) {
	ctx := timeout(t, time.Minute+time.Duration(*crashKills)*patience)
	w.namespace(t, "crash", 2)
	c := newCrashes(ctx, t, w)
	traffic := startTraffic(ctx, t, w, []string{
		lab.Join("198.51.100.12", 990), lab.Join("203.0.113.12", 990), lab.Join("2001:db8:2::12", 990), lab.Join("198.51.100.12", 991),
	})
	rounds := make(chan int, 1)
	go func() {
		last := 0
		for last = range traffic.rounds {
		}
		rounds <- last
	}()
	stopIntruders := startIntruders(ctx, t, w)

	random := rand.New(rand.NewPCG(*crashSeed, 1))
	var longest time.Duration
	manners := slices.Concat(anyManners, w.plane.manners())
	for n := range *crashKills {
		m := manners[n%len(manners)]
		if n >= len(manners) {
			m = manners[random.IntN(len(manners))]
		}
		took := c.killOnce(ctx, t, m, random)
		if took > 2*time.Second {
			t.Logf("kill %d, %s: wanted state only %v after the start", n, m.name, took.Round(time.Millisecond))
		}
		longest = max(longest, took)
		if t.Failed() {
			t.Fatalf("seed %d, kill %d, %s", *crashSeed, n, m.name)
		}
	}
	stopIntruders()
	traffic.stop(t)
	t.Logf("seed %d: %d kills; wanted state at most %v after the start; %d rounds of traffic",
		*crashSeed, *crashKills, longest.Round(time.Millisecond), <-rounds)
}

// crashes alternates objects between variants and kills smartnatd at each change.
type crashes struct {
	*world
	// want is the kernel's state for each variant, programmed without a crash.
	want    []string
	variant int
}

// variants differ in every part of a Mapping. Client2 is never allowed to port 991.
var variants = []string{
	crashMappings("allowedSources: [192.0.2.10/32]", "", 20, "endpoints"),
	crashMappings("allowedSources: [192.0.2.10/32, "+networks(100)+"]", "allowedSources: ["+networks(150)+"]", 3, "endpoints"),
	crashMappings("allowedSources: [192.0.2.10/32, "+networks(90)+"]", "allowedSources: ["+networks(10)+"]", 40, "service"),
}

func crashMappings(closed, changing string, ports int, mode string) string {
	var list []string
	for port := range ports {
		list = append(list, fmt.Sprintf("{port: %d, servicePort: 8080}", 9000+port*7))
	}
	if changing != "" {
		changing += ", "
	}
	return mappingYAML("crash", "echo", `addresses: [198.51.100.12, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: endpoints,
		ports: [{port: 990, servicePort: 8080}, {port: 990, servicePort: 8080, protocol: udp}]`) + "---\n" +
		mappingYAML("crash", "closed", `addresses: [198.51.100.12, "2001:db8:1::12"], serviceName: echo, mode: endpoints, `+closed+`,
		ports: [{port: 991, servicePort: 8080}, {port: 991, servicePort: 8080, protocol: udp}]`) + "---\n" +
		mappingYAML("crash", "changing", `addresses: [198.51.100.13, 203.0.113.12, "2001:db8:2::12"], serviceName: echo, mode: `+mode+`, `+changing+
			`ports: [`+strings.Join(list, ", ")+`]`)
}

// networks returns a list of n networks without any client.
func networks(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("10.200.%d.0/24", i))
	}
	return strings.Join(list, ", ")
}

func newCrashes(ctx context.Context, t *testing.T, w *world) *crashes {
	t.Helper()
	c := &crashes{world: w}
	before := ""
	for _, yaml := range variants {
		w.apply(t, yaml)
		w.await(t, lab.Client, "tcp", lab.Join("198.51.100.12", 991), nil)
		before = c.settled(ctx, t, before)
		c.want = append(c.want, before)
	}
	c.variant = len(variants) - 1
	w.plane.prepareCrashes(ctx, t, w)
	return c
}

// settled waits until the kernel's state differs from before and is stable, and returns it.
func (c *crashes) settled(ctx context.Context, t *testing.T, before string) string {
	t.Helper()
	const still = 700 * time.Millisecond
	last, since := "", time.Now()
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		now := c.kernel(ctx, t)
		if now != last {
			last, since = now, time.Now()
		}
		if now == before || time.Since(since) < still {
			return errors.New("the kernel has not settled")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return last
}

// killOnce changes the objects, kills smartnatd, starts it again and returns how long it then took until the kernel had the wanted
// state.
func (c *crashes) killOnce(ctx context.Context, t *testing.T, m manner, random *rand.Rand) time.Duration {
	t.Helper()
	c.variant = (c.variant + 1 + random.IntN(len(variants)-1)) % len(variants)
	applied := make(chan error, 1)
	go func() {
		applied <- c.Apply(ctx, variants[c.variant])
	}()
	if err := errors.Join(m.kill(ctx, c.world, random), <-applied); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	skip, started := len(c.daemon.Log()), time.Now()
	if err := c.daemon.Restart(ctx); err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if diff := cmp.Diff(c.want[c.variant], c.kernel(ctx, t)); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	}); err != nil {
		t.Fatalf("killed %s: the kernel does not reach the wanted state: %v\nthe log since the start:\n%s", m.name, err, c.daemon.Log()[skip:])
	}
	return time.Since(started)
}

// aWhile is about the time that a change takes from the API to the kernel, or that smartnatd takes to start.
const aWhile = 500 * time.Millisecond

func within(random *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(d)))
}

func killAnyTime(_ context.Context, w *world, random *rand.Rand) error {
	time.Sleep(within(random, aWhile))
	return w.daemon.Kill()
}

func killAlone(_ context.Context, w *world, random *rand.Rand) error {
	time.Sleep(within(random, aWhile))
	return w.killAlone()
}

// killAlone kills smartnatd, but not its child processes.
func (w *world) killAlone() error {
	if err := unix.Kill(w.daemon.PID(), unix.SIGKILL); err != nil {
		return fmt.Errorf("killing smartnatd: %w", err)
	}
	<-w.daemon.Done()
	return nil
}

func killStarting(ctx context.Context, w *world, random *rand.Rand) error {
	starting, cancel := context.WithTimeout(ctx, within(random, aWhile))
	defer cancel()
	if err := w.daemon.Restart(starting); err != nil && starting.Err() == nil {
		return err
	}
	return w.daemon.Kill()
}
