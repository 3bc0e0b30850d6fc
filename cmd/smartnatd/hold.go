// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/hold"
)

// holdConnections has connections outlive that somebody removes all rules: while we run, and until the next of us does where
// systemd keeps the socket. What it kept of the one before is taken over where it is what is asked for. There is nothing to close
// where the kernel cannot do it, which is told.
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
			log.WithError(err).Info("what holds connections is made anew: what systemd kept is not what is needed")
		}
		_ = socket.Close()
	}
	if adopted != nil {
		return adopted
	}
	if stale {
		if err := forget(name); err != nil {
			log.WithError(err).Warn("could not have systemd close a socket")
		}
	}
	held, err := hold.Take(own, ipv6)
	if err != nil {
		log.WithError(err).Warn("connections end when somebody removes all rules: the kernel does not keep tracking and translating them until ours are back")
		return io.NopCloser(nil)
	}
	if err := keep(name, held); err != nil {
		log.WithError(err).Warn("connections end when somebody removes all rules while smartnatd is not running: systemd did not take the socket")
	}
	return held
}
