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
	// writeTimeout is the time that a client may take to accept one write before it is cut off.
	writeTimeout = 30 * time.Second
	// pieceSize is the size of one write of a watch: the most that net/http takes without allocating a copy, which it
	// would keep for the life of the connection, for each of hundreds of watchers.
	pieceSize = 4 << 10
)

// buffers are for watches that are writing. A quiet watch, as nearly all are, has none.
var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, pieceSize) }}

// encoder encodes objects in the form that a client negotiated. A watch of tables has one row per event, and only the
// first table has the headers.
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
	// The metadata is the first field of every kind, in both encodings, so this type fits all.
	obj := &metav1.PartialObjectMetadata{
		TypeMeta:   e.resource.TypeMeta(),
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: version.String()},
	}
	if initialEnd {
		obj.Annotations = initialEventsEnd()
	}
	switch e.form {
	case asTable:
		cells := make([]any, len(e.resource.columns.headers))
		cells[0] = "" // the name
		return e.row(metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: partial(obj)}}, version)
	case asMetadata:
		obj = partial(obj)
	}
	return e.encoding.object(obj)
}

func (e *encoder) status(err error) (encoded, error) {
	return e.encoding.object(statusOf(err))
}

// output is the body of a watch. A watch may be quiet for a long time, so the server's write timeout is off; a timer cuts
// off a client that does not accept a write. Setting and clearing a deadline for each write would, over HTTP/2, cost as
// much as the write itself, because each call waits for the server's other goroutine.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  *bufio.Writer // nil while it is empty
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

// writer returns the buffer, which is flushed by pieces of pieceSize and by flush.
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

// release returns the buffer to the pool and discards its content.
func (o *output) release() {
	if o.buffer != nil {
		o.buffer.Reset(nil)
		buffers.Put(o.buffer)
		o.buffer = nil
	}
}

// pieces writes the content of the buffer under the write timeout.
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

// cutOff makes the write under way fail.
func (o *output) cutOff() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		_ = o.control.SetWriteDeadline(time.Unix(1, 0)) // long ago
	}
}

// end stops the timer. It must be called before the request is finished, because the ResponseWriter must not be used
// afterwards.
func (o *output) end() {
	o.timer.Stop()
	o.release()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}
