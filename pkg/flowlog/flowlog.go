// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/loglimit"
)

const (
	// files is the number of files that share the maximum size: the current one and older ones.
	files = 4
	// queued bounds the connections that wait to be written, some 2 MB.
	queued = 8192
	// maxBatch is the size from which a batch of lines is written, and writeInterval the longest time until it is.
	maxBatch      = 64 << 10
	writeInterval = time.Second
	// retryWatch is the time until a Watch that failed starts again.
	retryWatch = 10 * time.Second
)

// Ended passes connections that end.
type Ended interface {
	// Watch passes every connection that ends to each, and calls lost whenever some ended unseen. It returns nil when ctx ends.
	Watch(ctx context.Context, each func(flows.Flow), lost func()) error
}

// Options configures a Log.
type Options struct {
	File string
	// MaxMegabytes bounds all files together, and is at least 4.
	MaxMegabytes int
	// Count counts what was written and lost.
	Count *Count
	Log   logrus.FieldLogger
}

// Count counts what Logs wrote and lost, and holds the file that they share. It is safe for concurrent use.
type Count struct {
	written, losses atomic.Uint64

	mu sync.Mutex
	to *lumberjack.Logger
}

// open returns the file, the same one while its settings are: lumberjack never ends the goroutine of a Logger.
func (c *Count) open(file string, megabytes int) *lumberjack.Logger {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := megabytes / files
	if c.to == nil || c.to.Filename != file || c.to.MaxSize != size {
		c.to = &lumberjack.Logger{Filename: file, MaxSize: size, MaxBackups: files - 1}
	}
	return c.to
}

// Written returns the number of connections that were written.
func (c *Count) Written() uint64 { return c.written.Load() }

// Losses returns how often connections are missing.
func (c *Count) Losses() uint64 { return c.losses.Load() }

// Log writes a flow log.
type Log struct {
	Options
	owners atomic.Pointer[flows.Owners]
	queue  chan flows.Flow
	// lost is set while a loss is not marked in the file.
	lost atomic.Bool
}

// New returns a Log that writes nothing until Run.
func New(options Options) *Log { return &Log{Options: options, queue: make(chan flows.Flow, queued)} }

// Follow makes the Log find the Mappings of a State.
func (l *Log) Follow(state gateway.State) {
	owners := flows.NewOwners(state)
	l.owners.Store(&owners)
}

// Run writes connections that end until ctx ends. If it cannot watch them, it logs the cause once and tries again.
func (l *Log) Run(ctx context.Context, ended Ended) {
	written := make(chan struct{})
	go func() { defer close(written); l.write(ctx) }()
	defer func() { <-written }()
	if _, err := os.Stat(l.File); err == nil {
		l.lose() // Connections ended while nothing wrote.
	}
	var failed loglimit.LastError
	for {
		err := ended.Watch(ctx, l.add, l.lose)
		if ctx.Err() != nil {
			return
		}
		if failed.Changed(err) {
			l.Log.WithError(err).Warn("cannot log ended connections, retrying")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryWatch):
		}
		l.lose()
	}
}

// add never blocks.
func (l *Log) add(f flows.Flow) {
	select {
	case l.queue <- f:
	default:
		l.lose()
	}
}

func (l *Log) lose() {
	l.Count.losses.Add(1)
	l.lost.Store(true)
}

// write writes batches of whole lines, so that a change of files splits none.
func (l *Log) write(ctx context.Context) {
	to := l.Count.open(l.File, l.MaxMegabytes)
	defer to.Close()
	w := writer{Log: l, to: to}
	w.batch.WriteByte('\n') // An earlier process may have left a part of a line.
	ticker := time.NewTicker(writeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			for len(l.queue) > 0 {
				w.add(<-l.queue, time.Now())
			}
			w.flush(time.Now())
			return
		case f := <-l.queue:
			w.add(f, time.Now())
		case now := <-ticker.C:
			w.flush(now)
		}
	}
}

// writer gathers lines.
type writer struct {
	*Log
	to    *lumberjack.Logger
	batch bytes.Buffer
	lines uint64
	// failed is the error of the last write.
	failed loglimit.LastError
}

func (w *writer) add(f flows.Flow, now time.Time) {
	mapping := ""
	if owners := w.owners.Load(); owners != nil {
		mapping = owners.Of(f)
	}
	w.line(flows.NewRecord(f, mapping, now))
	w.lines++
	if w.batch.Len() >= maxBatch {
		w.flush(now)
	}
}

func (w *writer) line(r flows.Record) {
	text, _ := json.Marshal(r) // all its fields can be encoded
	w.batch.Write(append(text, '\n'))
}

func (w *writer) flush(now time.Time) {
	lost := w.lost.Swap(false)
	if lost {
		w.line(flows.Record{End: now.UTC(), Lost: true})
	}
	if w.batch.Len() <= 1 {
		return
	}
	err := os.MkdirAll(filepath.Dir(w.File), 0o700)
	if err == nil {
		_, err = w.to.Write(w.batch.Bytes())
	}
	w.batch.Reset()
	if err != nil {
		w.Count.losses.Add(w.lines)
		w.lost.Store(true)
		w.batch.WriteByte('\n') // A part of it may be written.
	} else {
		w.Count.written.Add(w.lines)
	}
	if w.failed.Changed(err) {
		if err != nil {
			w.Log.Log.WithError(err).Error("failed to write the flow log, connections are missing")
		} else {
			w.Log.Log.Info("flow log is written again")
		}
	}
	w.lines = 0
}
