// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/hold"
	"github.com/smartnat/smartnat/pkg/systemd"
)

// hold keeps connections alive for iptables, and for tables of nf_tables that any process can remove. Tables that belong to this
// process need no help: they are what keeps connection tracking active.
func (b *builder) hold(cfg config.Config, chosen plane) {
	if b.held != nil {
		return
	}
	if chosen.name == config.DataplaneNFTables && b.planes.owned() {
		b.log.Info("no other process can remove the nftables rules")
		releaseHeld(hold.Table(cfg.Ownership), b.kept, b.log)
	} else {
		b.held = holdConnections(cfg.Ownership, cfg.IPv6, b.kept, b.log)
	}
	b.kept = nil
}

func (b *builder) close() {
	b.endAnnouncer() // first, since all else still works
	if b.stopMeter != nil {
		b.stopMeter()
	}
	b.endFlowLog()
	b.endPair()
	if b.held != nil {
		_ = b.held.Close()
	}
}

// releaseHeld closes the sockets that systemd kept, so that the table of this name goes.
func releaseHeld(name string, kept []*os.File, log logrus.FieldLogger) {
	found := false
	for _, socket := range kept {
		found = found || socket.Name() == name
		_ = socket.Close()
	}
	if !found {
		return
	}
	if err := systemd.RemoveFD(name); err != nil {
		log.WithError(err).Warn("cannot remove the kept socket from systemd")
	}
}

// holdConnections keeps connections alive if another process removes all rules: while smartnatd runs and, if systemd keeps the
// socket, until the next smartnatd starts. It adopts the socket that systemd kept if that still fits. If the kernel cannot hold
// connections, it logs so and returns a Closer that does nothing.
func holdConnections(own gateway.Ownership, ipv6 bool, kept []*os.File, log logrus.FieldLogger) io.Closer {
	name := hold.Table(own)
	log = log.WithField("table", name)
	var adopted *os.File
	stale := false
	for _, socket := range kept {
		if adopted == nil && socket.Name() == name {
			err := hold.Owns(socket, own, ipv6)
			if err == nil {
				adopted = socket
				continue
			}
			stale = true
			log.WithError(err).Info("replacing the kept socket, it does not fit the config")
		}
		_ = socket.Close()
	}
	if adopted != nil {
		return adopted
	}
	if stale {
		if err := systemd.RemoveFD(name); err != nil {
			log.WithError(err).Warn("cannot remove the kept socket from systemd")
		}
	}
	held, err := hold.Take(own, ipv6)
	if err != nil {
		log.WithError(err).Warn("connections end if another process removes all rules")
		return io.NopCloser(nil)
	}
	if err := systemd.StoreFD(name, held); err != nil {
		log.WithError(err).Warn("connections end if rules are removed while smartnatd is down")
	}
	return held
}
