// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// change is one move of the watched endpoint, with the time of the API server's response and that of the first connection to
// the new address.
type change struct {
	said, seen time.Time
	address    string
}

// journal collects data about the stages of changes. It is empty for all contenders except SmartNat.
type journal struct {
	changes    []change
	api, relay sightings
	process    *lab.Process
	logBegan   int
	cancel     context.CancelFunc
}

// newJournal starts watching.
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

// stages returns the milliseconds of each stage of each change, as far as known.
func (j *journal) stages() map[string][]float64 {
	if j.process == nil {
		return nil
	}
	return stagesOf(j.changes, parseApplied(j.process.Log()[j.logBegan:]), &j.api, &j.relay)
}

// Additional stages. seenStage runs from the beginning of the restore to the first connection, which may succeed before the
// restore program ends. withoutRestore is the time before the restore plus the time from its end to that connection.
const (
	seenStage      = "restore to connection"
	withoutRestore = "all but restore"
)

// stageNames returns the stages in order. The stages before the restore and seenStage add up to the whole.
func stageNames() []string {
	names := append([]string{"apiserver", "relay", "informer"}, stagesBefore...)
	return append(names, seenStage, "restore", "cut", withoutRestore)
}

// stagesOf combines the observations of each change.
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
		// The last write that began between the previous change and the connection made the connection possible.
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
