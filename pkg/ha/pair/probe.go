// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/ha"
)

const (
	// peerTimeout bounds the question to the peer about a neighbour: a takeover waits for it.
	peerTimeout = 300 * time.Millisecond
	// openAgain is the time between attempts to open a socket, and sayAgain between writes of the same value for keepalived, which
	// resets it when it starts.
	openAgain, sayAgain = 2 * time.Second, time.Second
)

// probe asks all neighbours until ctx ends, and makes keepalived give up the addresses if the peer is better off.
type probe struct {
	*Pair
	mu sync.Mutex
	// answered has the neighbours that answered since the last question.
	answered map[ha.Neighbour]bool
	askers   map[askerKey]*openAsker
	misses   ha.Misses
	doubts   ha.Doubts
	giveUp   bool
	said     time.Time
}

type askerKey struct {
	link string
	four bool
}

// openAsker is nil inside while its socket could not be opened.
type openAsker struct {
	asker
	own   netip.Addr
	again time.Time
	err   string
}

func (p *Pair) probe(ctx context.Context) {
	w := &probe{Pair: p, answered: map[ha.Neighbour]bool{}, askers: map[askerKey]*openAsker{}}
	ticker := time.NewTicker(ha.ProbeInterval(p.Config.HA))
	defer ticker.Stop()
	verdicts := make(chan verdict, 1)
	asking := false
	w.say(false, true)
	for {
		select {
		case <-ctx.Done():
			w.say(false, true)
			w.closeAll()
			return
		case v := <-verdicts:
			asking = false
			if w.misses.Doubtful() { // they may have answered meanwhile
				w.doubts = v.doubts
			}
			if w.misses.Suspicious() {
				w.say(v.giveUp, false)
			}
		case now := <-ticker.C:
			w.count(now)
			if !w.misses.Suspicious() {
				w.say(false, false)
			}
			if !w.misses.Doubtful() {
				w.doubts = nil
				continue
			}
			if misses, doubts := w.misses, w.doubts; !asking {
				asking = true
				go func() { verdicts <- w.judge(ctx, misses, doubts) }()
			}
		}
	}
}

// verdict is what follows from an answer of the peer.
type verdict struct {
	giveUp bool
	doubts ha.Doubts
}

// judge asks the peer which neighbours it sees.
func (w *probe) judge(ctx context.Context, misses ha.Misses, doubts ha.Doubts) verdict {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	facts, err := Ask(ctx, w.Config.HA)
	if err != nil {
		return verdict{misses.GiveUp(nil, doubts), doubts}
	}
	doubts = doubts.Next(misses, facts)
	return verdict{misses.GiveUp(&facts, doubts), doubts}
}

// count takes the answers to the last question, and asks the next one. A neighbour that cannot be asked is not counted.
func (w *probe) count(now time.Time) {
	w.mu.Lock()
	answered := w.answered
	w.answered = map[ha.Neighbour]bool{}
	w.mu.Unlock()
	var asked []ha.Neighbour
	for _, n := range w.Neighbours() {
		if _, known := w.misses[n]; known {
			asked = append(asked, n)
		}
	}
	next := w.misses.Next(asked, func(n ha.Neighbour) bool { return answered[n] })
	for _, n := range w.Neighbours() {
		a := w.asker(n, now)
		if a.asker == nil {
			delete(next, n)
		} else if a.ask(n.Address) != nil { // the link is down, or another one by now
			a.close()
			a.asker, a.again = nil, now.Add(openAgain)
			delete(next, n)
		} else if _, known := next[n]; !known {
			next[n] = 1 // asked for the first time
		}
	}
	w.misses = next
	w.Pair.mu.Lock()
	w.missed, w.answering = next.Missed(), next.Answering()
	w.questions++
	w.Pair.mu.Unlock()
}

// asker returns the one for a neighbour, which it opens if that is due.
func (w *probe) asker(n ha.Neighbour, now time.Time) *openAsker {
	key := askerKey{n.Link, n.Address.Is4()}
	a := w.askers[key]
	if a == nil {
		a = &openAsker{}
		for _, l := range w.Config.HA.Links {
			for _, own := range l.Addresses {
				if l.Interface == n.Link && own.Is4() == key.four {
					a.own = own
				}
			}
		}
		w.askers[key] = a
	}
	if a.asker != nil || now.Before(a.again) {
		return a
	}
	a.again = now.Add(openAgain)
	opened, err := newAsker(n.Link, a.own)
	if err != nil {
		if text := err.Error(); text != a.err {
			a.err = text
			w.Log.WithError(err).Warn("cannot watch neighbours, will retry")
		}
		return a
	}
	a.asker, a.err = opened, ""
	go func() {
		_ = opened.answers(func(from netip.Addr) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.answered[ha.Neighbour{Link: n.Link, Address: from}] = true
		})
	}()
	return a
}

func (w *probe) closeAll() {
	for _, a := range w.askers {
		if a.asker != nil {
			a.close()
		}
	}
}

// say writes the verdict for keepalived if it is new, or due again.
func (w *probe) say(giveUp, force bool) {
	if giveUp != w.giveUp {
		fields := logrus.Fields{"missed": strings.Trim(fmt.Sprint(w.misses.Missed()), "[]")}
		if giveUp {
			w.Log.WithFields(fields).Warn("lost neighbours, leaving the addresses to the peer")
		} else {
			w.Log.Info("neighbours are back, this box can be primary")
		}
	} else if !force && (!giveUp || time.Since(w.said) < sayAgain) {
		return
	}
	text := "0\n"
	if giveUp {
		text = "1\n"
	}
	w.giveUp, w.said = giveUp, time.Now()
	if err := os.WriteFile(ha.TrackFile(w.Config.RuntimeDir), []byte(text), 0o600); err != nil {
		w.Log.WithError(err).Warn("failed to write the file for keepalived")
	}
}
