// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// writeTimeout is how long a client may take for what is written at once before it is cut off.
const writeTimeout = 30 * time.Second

// encoder writes the objects of watch events: as they are, or as tables of one row, the first of which has the headers.
type encoder struct {
	resource *resource
	table    bool
	include  metav1.IncludeObjectPolicy
	headed   bool
}

func (e *encoder) object(entry *watchcache.Entry) ([]byte, error) {
	if !e.table {
		return entry.JSON()
	}
	row, err := e.resource.columns.row(entry.Object, e.include)
	if err != nil {
		return nil, err
	}
	return e.row(row, entry.Version)
}

func (e *encoder) row(row metav1.TableRow, version watchcache.Version) ([]byte, error) {
	table := newTable(nil, version)
	if !e.headed {
		table.ColumnDefinitions, e.headed = e.resource.columns.headers, true
	}
	table.Rows = append(table.Rows, row)
	return json.Marshal(table)
}

func (e *encoder) bookmark(version watchcache.Version, initialEnd bool) ([]byte, error) {
	obj := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{Kind: e.resource.kind, APIVersion: e.resource.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: version.String()},
	}
	if initialEnd {
		obj.Annotations = initialEventsEnd()
	}
	if e.table {
		cells := make([]any, len(e.resource.columns.headers))
		return e.row(metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: partial(obj)}}, version)
	}
	return json.Marshal(obj)
}

func encodeStatus(err error) ([]byte, error) {
	status := responsewriters.ErrorToAPIStatus(err)
	status.TypeMeta = typeMeta("Status")
	return json.Marshal(status)
}

// output is the body of a watch. The server's own write timeout does not hold for it, as it may be quiet for long; each
// write has one of its own.
type output struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buffer  *bufio.Writer
}

func newOutput(w http.ResponseWriter) *output {
	o := &output{w: w, control: http.NewResponseController(w)}
	o.buffer = bufio.NewWriterSize(writerFunc(o.write), 16<<10)
	return o
}

func (o *output) begin() error {
	o.w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	o.w.Header().Set("Cache-Control", "no-cache, private")
	o.w.WriteHeader(http.StatusOK)
	return o.flush()
}

func (o *output) event(t watch.EventType, object []byte) error {
	if _, err := fmt.Fprintf(o.buffer, `{"type":%q,"object":`, t); err != nil {
		return err
	}
	if _, err := o.buffer.Write(object); err != nil {
		return err
	}
	_, err := o.buffer.WriteString("}\n")
	return err
}

func (o *output) flush() error {
	if err := o.buffer.Flush(); err != nil {
		return err
	}
	return o.timed(o.control.Flush)
}

func (o *output) write(p []byte) (n int, err error) {
	err = o.timed(func() error {
		n, err = o.w.Write(p)
		return err
	})
	return n, err
}

// timed cuts a client off that does not take what is written. The time limit has to go again afterwards: over HTTP/2 it
// would end a watch that is merely quiet.
func (o *output) timed(write func() error) error {
	if err := o.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	return o.control.SetWriteDeadline(time.Time{})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
