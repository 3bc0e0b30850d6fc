// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// change is one move of the watched endpoint: when the API server had answered, and when a connection reached it.
type change struct {
	said, seen time.Time
	address    string
}

// journal collects what tells where the time of changes goes. It is empty for all but SmartNat.
type journal struct {
	changes    []change
	api, relay sightings
	process    *lab.Process
	logBegan   int
	cancel     context.CancelFunc
}

// newJournal begins to watch.
func (w *world) newJournal(ctx context.Context, r runner) (*journal, error) {
	ctx, cancel := context.WithCancel(ctx)
	j := &journal{cancel: cancel}
	if _, ok := r.(*smartnatRunner); !ok {
		return j, nil
	}
	j.process, j.logBegan = r.process(), len(r.process().Log())
	client, err := w.relayClient()
	if err == nil {
		err = j.relay.follow(ctx, client)
	}
	if err == nil {
		err = j.api.follow(ctx, w.core)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return j, nil
}

func (j *journal) close() { j.cancel() }

// stages are the milliseconds that each stage of each change took, as far as they are known.
func (j *journal) stages() map[string][]float64 {
	if j.process == nil {
		return nil
	}
	return stagesOf(j.changes, parseApplied(j.process.Log()[j.logBegan:]), &j.api, &j.relay)
}

// Further stages: seen is from the beginning of the restore to the first connection, which may come before the program that
// restores has ended; withoutRestore is all that went before the restore, and what passed between its end and that connection.
const (
	seenStage      = "restore to connection"
	withoutRestore = "all but restore"
)

// stageNames, in their order: those before the restore add up with the first connection's to the whole.
func stageNames() []string {
	names := append([]string{"apiserver", "relay", "informer"}, stagesBefore...)
	return append(names, seenStage, "restore", "cut", withoutRestore)
}

// stagesOf puts together what was seen of each change.
func stagesOf(changes []change, written []applied, api, relay *sightings) map[string][]float64 {
	all := map[string][]float64{}
	add := func(stage string, from, to time.Time) { all[stage] = append(all[stage], milliseconds(to.Sub(from))) }
	last := time.Time{}
	for _, c := range changes {
		atAPI, inAPI := api.after(last, c.address)
		if inAPI {
			add("apiserver", c.said, atAPI)
		}
		atRelay, inRelay := relay.after(last, c.address)
		if inAPI && inRelay {
			add("relay", atAPI, atRelay)
		}
		// The last write that began between the change before and the connection is the one that led to it.
		for i := len(written) - 1; i >= 0; i-- {
			a := written[i]
			if a.stages["restore"] <= 0 || a.event.IsZero() || a.event.After(c.seen) || !a.event.After(last) {
				continue
			}
			if inRelay {
				add("informer", atRelay, a.event)
			}
			begun := milliseconds(a.event.Sub(c.said))
			for _, stage := range stagesBefore {
				begun += a.stages[stage]
			}
			seen := milliseconds(c.seen.Sub(c.said)) - begun
			for _, stage := range append([]string{"restore", "cut"}, stagesBefore...) {
				all[stage] = append(all[stage], a.stages[stage])
			}
			all[seenStage] = append(all[seenStage], seen)
			all[withoutRestore] = append(all[withoutRestore], begun+max(0, seen-a.stages["restore"]))
			break
		}
		last = c.seen
	}
	return all
}
