// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// recipe is what a manifest of apis/recipes promises.
type recipe struct {
	app  string
	pods []uint16
	// ways are the external addresses and ports that answer, and the pod's port that they lead to.
	ways []way
	// keeps: the pod sees the client's address.
	keeps bool
	// silent: another client gets no answer.
	silent bool
	// leaves is the address with which the pod's own connections arrive.
	leaves string
}

type way struct {
	protocol, address string
	port              uint16
}

var recipes = map[string]recipe{
	"postgres.yaml": {app: "postgres", pods: []uint16{5432}, silent: true, ways: []way{{"tcp", "198.51.100.10:5432", 5432}}},
	"game.yaml":     {app: "game", pods: []uint16{27015}, keeps: true, ways: []way{{"udp", "198.51.100.11:27015", 27015}}},
	"sip.yaml": {app: "pbx", pods: []uint16{5060, 16384, 16483}, keeps: true, ways: []way{
		{"udp", "203.0.113.11:5060", 5060}, {"tcp", "203.0.113.11:5060", 5060},
		{"udp", "203.0.113.11:16384", 16384}, {"udp", "203.0.113.11:16483", 16483},
	}},
	"syslog.yaml": {app: "syslog", pods: []uint16{1514}, keeps: true, ways: []way{
		{"udp", "198.51.100.12:514", 1514}, {"tcp", "198.51.100.12:514", 1514},
	}},
	"dns.yaml": {app: "dns", pods: []uint16{8053}, ways: []way{
		{"udp", "198.51.100.13:53", 8053}, {"tcp", "203.0.113.13:53", 8053}, {"udp", "[2001:db8:1::13]:53", 8053},
	}},
	"smtp.yaml": {app: "mail", pods: []uint16{25, 587}, keeps: true, leaves: "203.0.113.12", ways: []way{
		{"tcp", "203.0.113.12:25", 25}, {"tcp", "203.0.113.12:587", 587},
	}},
	"ftp.yaml": {app: "ftp", pods: []uint16{21, 30000, 30099}, ways: []way{
		{"tcp", "198.51.100.14:21", 21}, {"tcp", "198.51.100.14:30000", 30000}, {"tcp", "198.51.100.14:30099", 30099},
	}},
	"vpn.yaml": {app: "wireguard", pods: []uint16{51820}, ways: []way{{"udp", "203.0.113.14:51820", 51820}}},
}

// testRecipes applies the manifests of apis/recipes as users do, and sends packets for what each one promises.
func testRecipes(t *testing.T, w *world) {
	const namespace, folder = "recipes", "../../../apis/recipes"
	ctx := timeout(t, patience)
	if err := w.CreateNamespace(ctx, namespace); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, found := recipes[filepath.Base(file)]; !found {
			t.Errorf("no test of %s", file)
		}
	}
	if len(files) != len(recipes) {
		t.Errorf("%d recipes in %s, %d are tested", len(files), folder, len(recipes))
	}
	server, err := w.Host(lab.Client).Serve(7025)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for name, r := range recipes {
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			ctx := timeout(t, patience)
			if _, err := w.AddPod(ctx, lab.Pod{Namespace: namespace, Name: r.app, Labels: map[string]string{"app": r.app}, Ports: r.pods}); err != nil {
				t.Fatal(err)
			}
			path := "/run/lab/" + name
			if err := w.Host(lab.Control).WriteFile(path, string(text)); err != nil {
				t.Fatal(err)
			}
			w.kubectl(t, "apply", "--namespace", namespace, "-f", path)
			r.try(t, w)
		})
	}
}

// try sends packets for what a recipe promises.
func (r recipe) try(t *testing.T, w *world) {
	t.Helper()
	for _, to := range r.ways {
		answer := w.await(t, lab.Client, to.protocol, to.address, nil)
		if answer.Pod != r.app || answer.Port != to.port {
			t.Errorf("%s to %s led to port %d of %s, want %d of %s", to.protocol, to.address, answer.Port, answer.Pod, to.port, r.app)
		}
		seen := answer.Client.Addr().Unmap().String()
		if kept := slices.Contains([]string{lab.ClientAddress, lab.ClientAddress6}, seen); kept != r.keeps {
			t.Errorf("%s to %s: the pod saw %s; want the client's address: %t", to.protocol, to.address, seen, r.keeps)
		}
		if r.silent {
			w.expectSilence(t, lab.Client2, to.protocol, to.address)
		}
	}
	if r.leaves != "" {
		w.await(t, r.app+".recipes", "tcp", lab.Join(lab.ClientAddress, 7025), func(a lab.Answer) bool {
			return a.Client.Addr().Unmap().String() == r.leaves
		})
	}
}
