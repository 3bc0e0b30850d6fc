// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// encoding is a way to write answers. What entries are encoded to belongs to all who ask for them, so lists and events
// are put together around it, and nothing is encoded again.
type encoding interface {
	// mediaType is the Content-Type of answers, streamType that of watches.
	mediaType() string
	streamType() string
	entry(r *resource, e *watchcache.Entry, view watchcache.View) (encoded, error)
	object(obj runtime.Object) (encoded, error)
	list(kind metav1.TypeMeta, version watchcache.Version, items []encoded) ([]byte, error)
	event(w io.Writer, t watch.EventType, object encoded) error
}

// encodings are those that there are, by media type.
var encodings = map[string]encoding{
	runtime.ContentTypeJSON:     jsonEncoding{},
	runtime.ContentTypeProtobuf: protobufEncoding{},
}

// encoded is an object as it is sent: its message, which may be shared and must not be changed, after the head of the
// envelope that it is in, if any.
type encoded struct{ head, message []byte }

func (e encoded) bytes() []byte {
	if len(e.head) == 0 {
		return e.message
	}
	return append(e.head[:len(e.head):len(e.head)], e.message...)
}

type jsonEncoding struct{}

func (jsonEncoding) mediaType() string  { return runtime.ContentTypeJSON }
func (jsonEncoding) streamType() string { return runtime.ContentTypeJSON }

func (jsonEncoding) entry(_ *resource, e *watchcache.Entry, view watchcache.View) (encoded, error) {
	text, err := e.JSON(view)
	return encoded{message: text}, err
}

func (jsonEncoding) object(obj runtime.Object) (encoded, error) {
	text, err := json.Marshal(obj)
	if err != nil {
		return encoded{}, fmt.Errorf("encoding %T: %w", obj, err)
	}
	return encoded{message: text}, nil
}

func (jsonEncoding) list(kind metav1.TypeMeta, version watchcache.Version, items []encoded) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":%q},"items":[`, kind.Kind, kind.APIVersion, version)
	for i, item := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(item.message)
	}
	b.WriteString("]}\n")
	return b.Bytes(), nil
}

func (jsonEncoding) event(w io.Writer, t watch.EventType, object encoded) error {
	if _, err := fmt.Fprintf(w, `{"type":%q,"object":`, t); err != nil {
		return err
	}
	if _, err := w.Write(object.message); err != nil {
		return err
	}
	_, err := io.WriteString(w, "}\n")
	return err
}

// verbatim is the encoder of what is encoded already.
type verbatim struct{}

func (verbatim) Encode(obj runtime.Object, w io.Writer) error {
	unknown, ok := obj.(*runtime.Unknown)
	if !ok {
		return fmt.Errorf("cannot encode %T", obj)
	}
	_, err := w.Write(unknown.Raw)
	return err
}
func (verbatim) Identifier() runtime.Identifier { return "verbatim" }
