// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// encoding is a wire format. All clients share the encoded form of an entry, so lists and events are assembled from it
// without encoding it again.
type encoding interface {
	// mediaType is the Content-Type of a single response, streamType that of a watch.
	mediaType() string
	streamType() string
	entry(r *resource, e *watchcache.Entry, view watchcache.View) (encoded, error)
	object(obj runtime.Object) (encoded, error)
	list(kind metav1.TypeMeta, version watchcache.Version, items []encoded) ([]byte, error)
	event(w *bufio.Writer, t watch.EventType, object encoded) error
}

// encodings maps media types to encodings.
var encodings = map[string]encoding{
	runtime.ContentTypeJSON:     jsonEncoding{},
	runtime.ContentTypeProtobuf: protobufEncoding{},
}

// encoded is an encoded object. In protobuf, head is the beginning of the envelope and message its raw field; in JSON,
// head is empty. Both may be shared and must not be modified.
type encoded struct{ head, message []byte }

func (e encoded) bytes() []byte {
	if len(e.head) == 0 {
		return e.message
	}
	return appendField(slices.Clip(e.head), unknownRaw, e.message)
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

// event ignores the errors of the first writes, because a bufio.Writer returns them again with the last one.
func (jsonEncoding) event(w *bufio.Writer, t watch.EventType, object encoded) error {
	_, _ = w.Write(append(append(append(w.AvailableBuffer(), `{"type":"`...), t...), `","object":`...))
	_, _ = w.Write(object.message)
	_, err := w.WriteString("}\n")
	return err
}
