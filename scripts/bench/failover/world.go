// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// patience bounds each wait, on a busy machine.
	patience = time.Minute
	// settle is the time of traffic before a fault, and after the last effect of it.
	settle = 2 * time.Second

	objectsFile = "/etc/smartnat/objects.yaml"
	outsidePort = 9090
)

// objects are a Mapping that masquerades and one that keeps the addresses of clients, whose pods open connections too.
const objects = `apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: masqueraded, namespace: default, uid: "1", creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  addresses: [%[1]s, "%[2]s"]
  serviceName: echo
  mode: endpoints
  ports: [{port: 8080}, {port: 8080, protocol: udp}]
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: kept, namespace: default, uid: "2", creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  addresses: [%[1]s, "%[2]s"]
  serviceName: echo
  mode: endpoints
  masquerade: false
  egress: true
  ports: [{port: 8090, servicePort: 8080}, {port: 8090, servicePort: 8080, protocol: udp}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: default}
spec:
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, "fd00:96::20"]
  ipFamilies: [IPv4, IPv6]
  ports: [{name: tcp, port: 8080, targetPort: 8080}, {name: udp, port: 8080, targetPort: 8080, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-4, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{name: tcp, port: 8080, protocol: TCP}, {name: udp, port: 8080, protocol: UDP}]
endpoints: [{addresses: [10.244.1.2], conditions: {ready: true}}, {addresses: [10.244.2.2], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-6, namespace: default, labels: {kubernetes.io/service-name: echo}}
addressType: IPv6
ports: [{name: tcp, port: 8080, protocol: TCP}, {name: udp, port: 8080, protocol: UDP}]
endpoints: [{addresses: ["fd00:244:1::2"], conditions: {ready: true}}, {addresses: ["fd00:244:2::2"], conditions: {ready: true}}]
`

// world is a lab with a pair.
type world struct {
	*lab.Lab
	// ha has more keys of ha on both boxes.
	ha, plane string
	advert    time.Duration
	// active is primary, and standby is not.
	active, standby *lab.Box
	watch           *watch
	// copying is the processor time of conntrackd on both boxes for each flow of fill.
	copying time.Duration
	traffic *traffic
}

func newWorld(ctx context.Context, p plan, plane, ha string) (w *world, err error) {
	l, err := lab.Start(ctx, lab.WithoutControlPlane(), lab.WithVariant("nf_tables"))
	if err != nil {
		return nil, err
	}
	w = &world{Lab: l, ha: ha, plane: plane, advert: p.advert}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, l.Logs())
			err = errors.Join(err, l.Stop())
		}
	}()
	if err := w.AddPeer(); err != nil {
		return nil, err
	}
	for name, node := range map[string]string{"p1": lab.Node1, "p2": lab.Node2} {
		if _, err := w.AddPod(ctx, lab.Pod{Name: name, Node: node}); err != nil {
			return nil, err
		}
		// Where the client's address is kept, pods answer by the primary.
		for _, line := range []string{"ip route replace default via " + lab.VirtualInside, "ip -6 route replace default via " + lab.VirtualInside6} {
			if _, err := w.Host(node).Exec(ctx, strings.Fields(line)...); err != nil {
				return nil, err
			}
		}
	}
	if _, err := w.Host(lab.Client).Serve(outsidePort); err != nil {
		return nil, err
	}
	if w.watch, err = newWatch(w.Lab); err != nil {
		return nil, err
	}
	w.active, w.standby = w.Box(lab.Gateway), w.Box(lab.Gateway2)
	for _, b := range []*lab.Box{w.active, w.standby} {
		if err := w.Host(b.Host).WriteFile(objectsFile, fmt.Sprintf(objects, lab.VirtualExternal, lab.VirtualExternalv6)); err != nil {
			return nil, err
		}
		if err := w.start(ctx, b); err != nil {
			return nil, err
		}
	}
	return w, w.fit(ctx)
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience)
}

// start starts all programs of a box.
func (w *world) start(ctx context.Context, b *lab.Box) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	ha := "advertInterval: " + w.advert.String()
	if w.ha != "" {
		ha += "\n  " + w.ha
	}
	config := "source: {files: {paths: [" + objectsFile + "]}}\ndataplane: " + w.plane + "\n" + lab.PairConfig(b.Host, ha, "")
	if err := b.Start(ctx, config); err != nil {
		return err
	}
	return b.Vote()
}

// fit waits until both boxes are well.
func (w *world) fit(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return errors.Join(w.active.AwaitPrimary(ctx), w.active.AwaitFit(ctx), w.standby.AwaitFit(ctx))
}

// moved waits until the standby is primary.
func (w *world) moved(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := w.standby.AwaitPrimary(ctx)
	w.active, w.standby = w.standby, w.active
	return err
}

// copied waits until a box knows all sessions.
func (w *world) copied(ctx context.Context, b *lab.Box) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return b.AwaitCopies(ctx, w.traffic.sessions)
}

// revive starts a crashed box, empty as after a reboot.
func (w *world) revive(ctx context.Context, b *lab.Box) error {
	if err := errors.Join(b.SetSilent(false), w.start(ctx, b)); err != nil {
		return err
	}
	w.watch.cut(b.Host, false)
	return nil
}

// die cuts a box off in silence, and ends it.
func (w *world) die(ctx context.Context, b *lab.Box) error {
	w.watch.cut(b.Host, true)
	return errors.Join(b.SetSilent(true), b.Crash(ctx))
}

// measure runs one case.
func (w *world) measure(ctx context.Context, p plan, c scenario) (result, error) {
	if c.prepare != nil {
		if err := c.prepare(ctx, w); err != nil {
			return result{}, fmt.Errorf("preparing: %w", err)
		}
	}
	var err error
	if w.traffic, err = w.startTraffic(ctx, p.sessions); err != nil {
		return result{}, err
	}
	if !c.alone {
		err = w.copied(ctx, w.standby)
	}
	err = errors.Join(err, load.Sleep(ctx, settle))
	w.watch.begin()
	w.traffic.begin()
	if err == nil {
		err = c.fault(ctx, w)
	}
	err = errors.Join(err, load.Sleep(ctx, settle))
	got := w.traffic.end()
	got.Both, got.Copying = w.watch.longest().Seconds(), w.copying.Seconds()
	w.copying = 0
	if err == nil && c.restore != nil {
		err = c.restore(ctx, w)
	}
	if err == nil {
		err = w.fit(ctx)
	}
	return got, err
}
