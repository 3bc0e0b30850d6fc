// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/netutil"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/ha"
)

const (
	// answerTimeout bounds an exchange, from the first packet to the last.
	answerTimeout = time.Second
	// listenAgain is the time between attempts to listen.
	listenAgain = 2 * time.Second
	// maxAsking bounds concurrent connections.
	maxAsking = 8
)

// Ask returns the facts of the peer. It waits a second at most. An error is one line.
func Ask(ctx context.Context, h config.HA) (ha.Facts, error) {
	return ask(ctx, h, answerTimeout)
}

func ask(ctx context.Context, h config.HA, timeout time.Duration) (ha.Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	at := netip.AddrPortFrom(h.Peer, uint16(h.SyncPort))
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.SyncAddress, 0))}
	conn, err := dialer.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return ha.Facts{}, fmt.Errorf("the peer does not answer at %s: %w", at, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return ha.Facts{}, fmt.Errorf("asking the peer: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(conn, ha.MaxFacts+1))
	if err != nil {
		return ha.Facts{}, fmt.Errorf("the peer's smartnatd hangs, or something else listens at %s: %w", at, err)
	}
	facts, err := ha.ParseFacts(text)
	if err != nil {
		return ha.Facts{}, fmt.Errorf("the answer from %s is no smartnatd's: %w: check peer and syncPort on both boxes", at, err)
	}
	return facts, nil
}

// serve answers the peer until ctx ends. It reads nothing, and only the peer gets an answer.
func serve(ctx context.Context, h config.HA, timeout time.Duration, facts func() ha.Facts, log logrus.FieldLogger) {
	at := netip.AddrPortFrom(h.SyncAddress, uint16(h.SyncPort))
	failed := ""
	for ctx.Err() == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
		if err != nil {
			if text := err.Error(); text != failed {
				failed = text
				log.WithError(err).Warn("failed to listen for the peer, will retry")
			}
			wait(ctx, listenAgain)
			continue
		}
		failed = ""
		stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
		err = accept(netutil.LimitListener(listener, maxAsking), h, timeout, facts)
		if stop() {
			_ = listener.Close()
			log.WithError(err).Warn("failed to answer the peer, will listen again")
			wait(ctx, listenAgain)
		}
	}
}

func accept(listener net.Listener, h config.HA, timeout time.Duration, facts func() ha.Facts) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			from, ok := conn.RemoteAddr().(*net.TCPAddr)
			if !ok || from.AddrPort().Addr().Unmap() != h.Peer {
				return
			}
			text, err := json.Marshal(facts())
			if err == nil && conn.SetDeadline(time.Now().Add(timeout)) == nil {
				_, _ = conn.Write(text) // the peer sees that it is missing
			}
		}()
	}
}

// wait returns early if ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
