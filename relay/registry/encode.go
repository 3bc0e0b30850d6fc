// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/smartnat/smartnat/relay/watchcache"
)

const (
	// writeTimeout is how long a client may take for what is written at once before it is cut off.
	writeTimeout = 30 * time.Second
	// pieceSize is how much of a watch is written at once: as much as the server takes without a copy. More would be kept by
	// it as long as the connection lasts, for each of hundreds of watchers.
	pieceSize = 4 << 10
)

// buffers are those of watches that are writing: quiet ones, which nearly all are, have none.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, pieceSize) }}

// encoder writes objects in the form and the encoding that a client has asked for. Of tables, which have one row for each
// event, the first has the headers.
type encoder struct {
	accepted
	resource *resource
	include  metav1.IncludeObjectPolicy
	headed   bool
}

func (e *encoder) entry(entry *watchcache.Entry) (encoded, error) {
	switch e.form {
	case asTable:
		row, err := e.resource.columns.row(entry.Object, e.include)
		if err != nil {
			return encoded{}, err
		}
		return e.row(row, entry.Version)
	case asMetadata:
		return e.encoding.object(partial(entry.Object))
	}
	return e.encoding.entry(e.resource, entry, e.view)
}

func (e *encoder) row(row metav1.TableRow, version watchcache.Version) (encoded, error) {
	table := newTable(nil, version)
	if !e.headed {
		table.ColumnDefinitions, e.headed = e.resource.columns.headers, true
	}
	table.Rows = append(table.Rows, row)
	return e.encoding.object(table)
}

func (e *encoder) bookmark(version watchcache.Version, initialEnd bool) (encoded, error) {
	// All objects begin with their metadata, in each of the encodings.
	obj := &metav1.PartialObjectMetadata{
		TypeMeta:   e.resource.typeMeta(),
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: version.String()},
	}
	if initialEnd {
		obj.Annotations = initialEventsEnd()
	}
	switch e.form {
	case asTable:
		cells := make([]any, len(e.resource.columns.headers))
		cells[0] = "" // its name
		return e.row(metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: partial(obj)}}, version)
	case asMetadata:
		obj = partial(obj)
	}
	return e.encoding.object(obj)
}

func (e *encoder) status(err error) (encoded, error) {
	return e.encoding.object(statusOf(err))
}

// output is the body of a watch. The server's own write timeout does not hold for it, as it may be quiet for long; a timer
// cuts a client off that does not take what is written. Over HTTP/2 a deadline for each write, which would have to go again
// afterwards, costs as much as the write: the server's other goroutine has to be asked both times.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  *bufio.Writer // nil while there is nothing in it
	timeout time.Duration
	timer   *time.Timer

	mu    sync.Mutex
	ended bool
}

func newOutput(w http.ResponseWriter) *output {
	o := &output{w: w, control: http.NewResponseController(w), timeout: writeTimeout}
	o.timer = time.AfterFunc(o.timeout, o.cutOff)
	o.timer.Stop()
	return o
}

func (o *output) begin(mediaType string) error {
	o.w.Header().Set("Content-Type", mediaType)
	o.w.Header().Set("Cache-Control", "no-cache, private")
	if err := o.control.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	o.w.WriteHeader(http.StatusOK)
	return o.flushServer()
}

// writer buffers, up to a piece, until the next flush.
func (o *output) writer() *bufio.Writer {
	if o.buffer == nil {
		o.buffer = buffers.Get().(*bufio.Writer)
		o.buffer.Reset((*pieces)(o))
	}
	return o.buffer
}

func (o *output) flush() error {
	if o.buffer != nil {
		if err := o.buffer.Flush(); err != nil {
			return err
		}
		o.release()
	}
	return o.flushServer()
}

// release gives the buffer back, with whatever is in it.
func (o *output) release() {
	if o.buffer != nil {
		o.buffer.Reset(nil)
		buffers.Put(o.buffer)
		o.buffer = nil
	}
}

// pieces is the output as what is buffered is written to it.
type pieces output

func (o *pieces) Write(p []byte) (int, error) {
	o.timer.Reset(o.timeout)
	defer o.timer.Stop()
	return o.w.Write(p)
}

func (o *output) flushServer() error {
	o.timer.Reset(o.timeout)
	defer o.timer.Stop()
	return o.control.Flush()
}

// cutOff has the write under way fail.
func (o *output) cutOff() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		_ = o.control.SetWriteDeadline(time.Unix(1, 0)) // long ago
	}
}

// end has to be called before the request is done with: nothing may touch its answer afterwards.
func (o *output) end() {
	o.timer.Stop()
	o.release()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}
