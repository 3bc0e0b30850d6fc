// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// every is the interval of attempts on a path, and patience the timeout of a new connection.
	every    = 100 * time.Millisecond
	patience = 3 * time.Second
	// sessionPatience outlasts any fault and TCP's backoff after it, even if another fault drops the retransmission.
	sessionPatience = 2 * time.Minute
)

// loads is traffic that runs until it is stopped.
type loads struct {
	l      *lab.Lab
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu        sync.Mutex
	recorders []*recorder
	answered  []loss
}

func newLoads(l *lab.Lab) *loads {
	ctx, cancel := context.WithCancel(context.Background())
	return &loads{l: l, ctx: ctx, cancel: cancel}
}

func (ld *loads) record(c class, path string) *recorder {
	r := newRecorder(c, path, time.Now())
	ld.mu.Lock()
	defer ld.mu.Unlock()
	ld.recorders = append(ld.recorders, r)
	return r
}

// stop ends all traffic and returns its tracks, and the answers that must not have come.
func (ld *loads) stop() ([]track, []loss) {
	ended := time.Now()
	ld.cancel()
	ld.group.Wait()
	var tracks []track
	for _, r := range ld.recorders {
		tracks = append(tracks, r.close(ended))
	}
	return tracks, ld.answered
}

// repeat calls fn at a fixed rate, whether or not the previous call has returned.
func (ld *loads) repeat(interval time.Duration, fn func(n int)) {
	ld.group.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ld.ctx.Done():
				return
			case <-ticker.C:
				ld.group.Go(func() { fn(n) })
			}
		}
	})
}

// connect keeps opening short connections from the client to an address.
func (ld *loads) connect(c class, address string) {
	r := ld.record(c, address)
	ld.repeat(every, func(int) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ld.ctx, patience)
		defer cancel()
		_, err := ld.l.Host(lab.Client).EchoTCP(ctx, address)
		switch {
		case err == nil:
			r.done(time.Now())
		case ld.ctx.Err() == nil:
			r.lost(began, err.Error())
		}
	})
}

// control opens connections to the router, which is in front of the gateway.
func (ld *loads) control() error {
	server, err := ld.l.Host(lab.Router).Serve(7)
	if err != nil {
		return err
	}
	ld.connect(control, lab.Join("192.0.2.1", 7))
	ld.group.Go(func() {
		<-ld.ctx.Done()
		_ = server.Close()
	})
	return nil
}

// intrude connects to addresses from a source that must not get an answer.
func (ld *loads) intrude(addresses []string) {
	ld.repeat(2*every, func(n int) {
		address := addresses[n%len(addresses)]
		ctx, cancel := context.WithTimeout(ld.ctx, 3*every)
		defer cancel()
		answer, err := ld.l.Host(lab.Client2).EchoTCP(ctx, address)
		if err != nil {
			return
		}
		ld.mu.Lock()
		defer ld.mu.Unlock()
		ld.answered = append(ld.answered, loss{At: time.Now(), Why: fmt.Sprintf("%s by %s", address, answer.Pod)})
	})
}

// hold keeps a TCP connection to an address, and sends numbered lines that must come back in order. It replaces a lost connection
// by a new one.
func (ld *loads) hold(address string) {
	r := ld.record(sessions, address)
	ld.group.Go(func() {
		for ld.ctx.Err() == nil {
			conn, err := ld.l.Host(lab.Client).Dial(ld.ctx, "tcp", address, 0)
			if err != nil {
				if !ld.sleep(every) {
					return
				}
				continue
			}
			err = ld.converse(conn, r)
			_ = conn.Close()
			if err != nil {
				r.lost(time.Now(), err.Error())
			}
		}
	})
}

// filler makes the lines of a session long enough that a corrupted byte would be noticed.
var filler = " " + strings.Repeat("0123456789abcdef", 32)

// converse exchanges lines until the traffic ends, and one more after that.
func (ld *loads) converse(conn net.Conn, r *recorder) error {
	reader := bufio.NewReader(conn)
	for n, last := 1, false; !last; n++ {
		last = !ld.sleep(every / 2)
		want := fmt.Sprintf("line %d%s", n, filler)
		if err := conn.SetDeadline(time.Now().Add(sessionPatience)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, want+"\n"); err != nil {
			return err
		}
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		answer, err := lab.ParseAnswer(line)
		if err != nil {
			return err
		}
		if answer.Message != want {
			return fmt.Errorf("line %d came back as %.40q", n, answer.Message)
		}
		r.done(time.Now())
	}
	return nil
}

// stream sends numbered datagrams to an address in one flow and records which of them were answered.
func (ld *loads) stream(address string) {
	r := ld.record(datagrams, address)
	ld.group.Go(func() {
		conn, err := ld.l.Host(lab.Client).Dial(ld.ctx, "udp", address, 0)
		if err != nil {
			r.lost(time.Now(), err.Error())
			return
		}
		ld.group.Go(func() { hear(conn, r) })
		defer func() { _ = conn.Close() }()
		for n := 1; ld.sleep(every / 2); n++ {
			// An error is an ICMP message for an earlier datagram; a lost datagram shows as a missing answer.
			_, _ = fmt.Fprintf(conn, "datagram %d", n)
		}
	})
}

// hear reads the answers to a stream until its socket is closed. Missing numbers are losses.
func hear(conn net.Conn, r *recorder) {
	buffer, heard := make([]byte, 2048), 0
	for {
		length, err := conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(every / 10)
			continue
		}
		answer, err := lab.ParseAnswer(buffer[:length])
		var n int
		if _, scan := fmt.Sscanf(answer.Message, "datagram %d", &n); err != nil || scan != nil || n <= heard {
			continue
		}
		now := time.Now()
		for range n - heard - 1 {
			r.lost(now, "no answer")
		}
		heard = n
		r.done(now)
	}
}

// sleep waits, and reports whether the traffic continues.
func (ld *loads) sleep(d time.Duration) bool {
	select {
	case <-ld.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
