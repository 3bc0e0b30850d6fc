// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bird

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	gateways      = 3
	external      = "203.0.113.10"
	external6     = "2001:db8:a::a"
	patience      = time.Minute
	configGateway = "# bird.conf of a gateway"
	configRouter  = "# bird.conf of the router"
)

// TestDocumentedBIRD runs the configs of BIRD that README.md shows: this namespace is the router, and each gateway has an Announcer and a
// BIRD of its own.
func TestDocumentedBIRD(t *testing.T) {
	testenv.RequireTool(t, "ip")
	testenv.RequireTool(t, "nft")
	testenv.RequireTool(t, "bird")
	testenv.NewNetNS(t)
	all := startAll(t)

	awaitRoutes(t, 0, "at the start")
	all.facts[1].Store(serving(""))
	awaitRoutes(t, 1, "one gateway serves")
	all.facts[2].Store(serving(""))
	all.facts[3].Store(serving(""))
	awaitRoutes(t, 3, "all gateways serve")

	all.facts[2].Store(serving("the worker hangs"))
	awaitRoutes(t, 2, "one gateway does not work")
	if s := all.announcers[2].Status(); len(s.Addresses) != 2 || s.Addresses[0].Why != "the worker hangs" || s.Problem != "" {
		t.Errorf("status %+v", s)
	}
	all.facts[2].Store(serving(""))
	awaitRoutes(t, 3, "it works again")

	// The link is silent: neither end sees that it is down.
	const silent = "table netdev silent"
	run(t, "nft add "+silent)
	run(t, "nft add chain netdev silent in { type filter hook ingress device gw1 priority -500; policy drop; }")
	awaitRoutes(t, 2, "a silent link")
	run(t, "nft delete "+silent)
	awaitRoutes(t, 3, "the link is back")

	all.stop[3]()
	awaitRoutes(t, 2, "one smartnatd was stopped")

	// Another mistake in bird.conf does not end what is announced.
	text, err := os.ReadFile(all.config[1])
	if err != nil {
		t.Fatal(err)
	}
	write(t, all.config[1], string(text)+"\nmistake;\n")
	all.facts[1].Store(serving("hangs"))
	await(t, "the mistake in the status", func() (bool, string) {
		s := all.announcers[1].Status()
		return strings.HasPrefix(s.Problem, "BIRD does not take its config: "), s.Problem
	})
	write(t, all.config[1], string(text))
	awaitRoutes(t, 1, "BIRD can read its config again")
	if s := all.announcers[1].Status(); s.Problem != "" {
		t.Errorf("problem %q", s.Problem)
	}
}

// TestBIRDStartsLater expects that addresses are announced although BIRD did not run at first, and that a process that died leaves none.
func TestBIRDStartsLater(t *testing.T) {
	testenv.RequireTool(t, "bird")
	testenv.NewNetNS(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "smartnat.conf"), announce.Render([]netip.Addr{netip.MustParseAddr("203.0.113.99")}))
	config := filepath.Join(dir, "bird.conf")
	write(t, config, "router id 198.51.1.2;\nprotocol device {}\ninclude \""+dir+"/smart*.conf\";\n")
	a, facts, _ := startAnnouncer(t, dir)
	facts.Store(serving(""))
	await(t, "a problem in the status", func() (bool, string) {
		s := a.Status()
		return strings.HasPrefix(s.Problem, "asking BIRD to read its config: dial unix "), s.Problem
	})
	startBIRD(t, "", dir, config)
	await(t, "the routes of BIRD", func() (bool, string) {
		out, _ := exec.Command("birdc", "-s", filepath.Join(dir, "ctl"), "show", "route").CombinedOutput()
		s := a.Status()
		text := string(out)
		return s.Problem == "" && strings.Contains(text, external+"/32") && strings.Contains(text, external6+"/128") && !strings.Contains(text, "203.0.113.99"), text + s.Problem
	})
}

type many struct {
	facts      map[int]*atomic.Pointer[announce.Facts]
	announcers map[int]*Announcer
	stop       map[int]func()
	config     map[int]string
}

// startAll starts BIRD here and on all gateways, which announce nothing yet.
func startAll(t *testing.T) many {
	t.Helper()
	readme, err := os.ReadFile("../../../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	ofGateway, ofRouter := block(t, string(readme), configGateway), block(t, string(readme), configRouter)
	router, one, found := strings.Cut(ofRouter, "# For each gateway")
	if !found {
		t.Fatal("the config of the router has no part for each gateway")
	}
	all := many{map[int]*atomic.Pointer[announce.Facts]{}, map[int]*Announcer{}, map[int]func(){}, map[int]string{}}
	for i := 1; i <= gateways; i++ {
		name := fmt.Sprintf("gw%d", i)
		run(t, "ip netns add "+name)
		t.Cleanup(func() { run(t, "ip netns del "+name) })
		for _, command := range []string{
			"ip link add " + name + " type veth peer name up0 netns " + name, "ip -n " + name + " link set lo up",
			fmt.Sprintf("ip addr add 198.51.%d.1/30 dev %s", i, name), fmt.Sprintf("ip addr add 2001:db8:1:%d::1/64 dev %s nodad", i, name),
			fmt.Sprintf("ip -n %s addr add 198.51.%d.2/30 dev up0", name, i), fmt.Sprintf("ip -n %s addr add 2001:db8:1:%d::2/64 dev up0 nodad", name, i),
			"ip link set " + name + " up", "ip -n " + name + " link set up0 up",
		} {
			run(t, command)
		}
		dir := t.TempDir()
		all.announcers[i], all.facts[i], all.stop[i] = startAnnouncer(t, dir)
		all.config[i] = filepath.Join(dir, "bird.conf")
		write(t, all.config[i], replaced(ofGateway, i, "/run/smartnat-announce/*.conf", dir+"/smart*.conf"))
		startBIRD(t, name, dir, all.config[i])
		router += "#" + replaced(one, i, "gw1_", name+"_")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "bird.conf"), router)
	startBIRD(t, "", dir, filepath.Join(dir, "bird.conf"))
	return all
}

// replaced is a config of gateway 1 for another one.
func replaced(config string, i int, more ...string) string {
	return strings.NewReplacer(append([]string{"198.51.1.", fmt.Sprintf("198.51.%d.", i), "2001:db8:1:1:", fmt.Sprintf("2001:db8:1:%d:", i)}, more...)...).Replace(config)
}

// block returns the block of a document that begins with a line.
func block(t *testing.T, document, line string) string {
	t.Helper()
	_, text, found := strings.Cut(document, "```\n"+line+"\n")
	text, _, ends := strings.Cut(text, "```")
	if !found || !ends {
		t.Fatalf("systemd/README.md has no block that begins with %q", line)
	}
	return strings.Replace(text, "log syslog { warning, error, fatal, bug };", "log stderr { warning, error, fatal, bug };", 1)
}

func startAnnouncer(t *testing.T, dir string) (*Announcer, *atomic.Pointer[announce.Facts], func()) {
	t.Helper()
	facts := &atomic.Pointer[announce.Facts]{}
	log := logrus.New()
	log.SetOutput(t.Output())
	a := New(Options{File: filepath.Join(dir, "smartnat.conf"), Socket: filepath.Join(dir, "ctl"), Facts: facts.Load, Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { a.Run(ctx); close(ended) }()
	stop := func() { cancel(); <-ended }
	t.Cleanup(stop)
	return a, facts, stop
}

// startBIRD runs BIRD in the foreground, in a namespace or here, until the test ends.
func startBIRD(t *testing.T, namespace, dir, config string) {
	t.Helper()
	cmd := exec.Command("bird", "-f", "-c", config, "-s", filepath.Join(dir, "ctl"), "-P", filepath.Join(dir, "pid"))
	if namespace != "" {
		cmd = exec.Command("ip", append([]string{"netns", "exec", namespace}, cmd.Args...)...)
	}
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("bird %s said:\n%s", namespace, said)
		}
	})
}

func serving(problem string) *announce.Facts {
	f := &announce.Facts{Networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/28"), netip.MustParsePrefix("2001:db8:a::/124")}, Problem: problem}
	for _, a := range []string{external, external6} {
		f.State.Forwards = append(f.State.Forwards, &gateway.Forward{Frontend: gateway.Frontend{Address: netip.MustParseAddr(a), Protocol: gateway.TCP, Ports: gateway.Port(80)}})
	}
	return f
}

// awaitRoutes waits until the router has so many next hops for both addresses.
func awaitRoutes(t *testing.T, want int, when string) {
	t.Helper()
	await(t, fmt.Sprintf("%s: %d next hops", when, want), func() (bool, string) {
		four, six := run(t, "ip route show "+external), run(t, "ip -6 route show "+external6)
		return strings.Count(four, "via ") == want && strings.Count(six, "via ") == want, four + six
	})
}

func await(t *testing.T, what string, done func() (bool, string)) {
	t.Helper()
	began := time.Now()
	for {
		ok, last := done()
		if ok {
			t.Logf("%s after %s", what, time.Since(began).Round(10*time.Millisecond))
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: not within %s:\n%s", what, patience, last)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}
