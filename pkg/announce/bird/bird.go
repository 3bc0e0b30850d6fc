// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bird has BIRD announce what pkg/announce decides: it replaces the file that bird.conf includes, and makes BIRD read it by its
// control socket, as birdc does. It must never decide what is announced, and knows no routing protocol.
package bird

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/atomicfile"
)

const (
	// lookAgain is the time between two looks at the facts, and tellAgain that after a failure.
	lookAgain, tellAgain = 100 * time.Millisecond, 2 * time.Second
	// answerTimeout bounds a command of BIRD, also while smartnatd stops.
	answerTimeout = 2 * time.Second
	// fileMode lets BIRD read the file, which runs as a user of its own.
	fileMode = 0o644
)

// Options are the surroundings of an Announcer. All but Probe are required.
type Options struct {
	// File is included by bird.conf, and Socket is BIRD's.
	File, Socket string
	// Facts returns nil while they are not known, as while a new config is taken up: then everything stays as it is.
	Facts func() *announce.Facts
	// Probe gets the next hops that Facts.Unreachable should know about, whenever they may have changed.
	Probe func(nextHops []netip.Addr)
	Log   logrus.FieldLogger
}

// Announcer keeps BIRD's file current.
type Announcer struct {
	Options
	mu     sync.Mutex
	status announce.Status
	// told is what BIRD read last, or "" if it is not known.
	told string
}

// New returns an Announcer that does nothing until Run.
func New(options Options) *Announcer { return &Announcer{Options: options} }

// Status returns what is announced.
func (a *Announcer) Status() announce.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Addresses = slices.Clone(s.Addresses)
	return s
}

// Run announces until ctx ends, and then withdraws everything. It begins with nothing: a process that died may have left addresses.
func (a *Announcer) Run(ctx context.Context) {
	var announced []netip.Addr
	var decided *announce.Facts
	var due time.Time
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		if facts := a.Facts(); facts != nil && (decided == nil || !facts.Same(decided)) {
			decided = facts
			if a.Probe != nil {
				a.Probe(announce.NextHops(*facts))
			}
			all := announce.Decide(*facts, announced)
			a.note(all)
			if now := announce.Announced(all); !slices.Equal(now, announced) {
				announced, due = now, time.Time{}
			}
		}
		if text := announce.Render(announced); text != a.told && !time.Now().Before(due) {
			if !a.tell(ctx, text, announced) {
				due = time.Now().Add(tellAgain)
			}
		}
		select {
		case <-ctx.Done():
			a.tell(context.WithoutCancel(ctx), announce.Render(nil), nil)
			return
		case <-ticker.C:
		}
	}
}

func (a *Announcer) note(all []announce.Address) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Addresses = all
}

// tell writes the file and has BIRD read it, and logs what is new.
func (a *Announcer) tell(ctx context.Context, text string, announced []netip.Addr) bool {
	err := atomicfile.Write(a.File, []byte(text), fileMode)
	if err != nil {
		err = fmt.Errorf("writing the file for BIRD: %w", err)
	} else {
		err = Configure(ctx, a.Socket)
	}
	a.mu.Lock()
	before := a.status.Problem
	a.status.Problem = ""
	if err != nil {
		a.status.Problem = err.Error()
	}
	problem := a.status.Problem
	a.mu.Unlock()
	if err != nil {
		a.told = ""
		if problem != before {
			a.Log.WithError(err).Warn("failed to tell BIRD, will retry")
		}
		return false
	}
	a.told = text
	a.Log.WithField("addresses", strings.Trim(fmt.Sprint(announced), "[]")).Info("announcing")
	return true
}

// Configure makes BIRD read its config again. BIRD goes on with the old one if the new one is not valid, and says why.
func Configure(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("asking BIRD to read its config: %w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("asking BIRD to read its config: %w", err)
	}
	lines := bufio.NewScanner(conn)
	if _, _, err := reply(lines); err != nil { // its greeting
		return err
	}
	if _, err := conn.Write([]byte("configure\n")); err != nil {
		return fmt.Errorf("asking BIRD to read its config: %w", err)
	}
	code, text, err := reply(lines)
	// Codes from 0 to 999 are successes (doc/reply_codes of BIRD).
	if err == nil && code >= 1000 {
		err = fmt.Errorf("BIRD does not take its config: %.300q", text)
	}
	return err
}

// reply returns the last line of a reply: four digits, and a space instead of the minus of lines that others follow. Lines that begin
// with a space continue the one before.
func reply(lines *bufio.Scanner) (code int, text string, err error) {
	const digits = 4
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, " ") || len(line) > digits && line[digits] == '-' {
			continue
		}
		if len(line) <= digits || line[digits] != ' ' {
			return 0, "", fmt.Errorf("BIRD answers %.100q, which is no reply", line)
		}
		if code, err = strconv.Atoi(line[:digits]); err != nil {
			return 0, "", fmt.Errorf("BIRD answers %.100q, which is no reply", line)
		}
		return code, line[digits+1:], nil
	}
	err = lines.Err()
	if err == nil {
		err = errors.New("it closed its socket")
	}
	return 0, "", fmt.Errorf("waiting for BIRD: %w", err)
}
