// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// Field numbers of Kubernetes messages.
const (
	unknownTypeMeta, unknownRaw protowire.Number = 1, 2
	listMetadata, listItems     protowire.Number = 1, 2
	eventType, eventObject      protowire.Number = 1, 2
	rawExtensionRaw             protowire.Number = 1
	magic                                        = "k8s\x00"
	frameLength                                  = 4
	streamOfFrames                               = runtime.ContentTypeProtobuf + ";stream=watch"
)

// protobufEncoding writes messages in the Kubernetes envelope: a magic number and a runtime.Unknown that names the kind.
type protobufEncoding struct{}

func (protobufEncoding) mediaType() string  { return runtime.ContentTypeProtobuf }
func (protobufEncoding) streamType() string { return streamOfFrames }

func (protobufEncoding) entry(r *resource, e *watchcache.Entry, view watchcache.View) (encoded, error) {
	message, err := e.Protobuf(view)
	if err != nil {
		return encoded{}, err
	}
	return encoded{head: r.envelope, message: message}, nil
}

func (protobufEncoding) object(obj runtime.Object) (encoded, error) {
	m, ok := obj.(interface{ Marshal() ([]byte, error) })
	if !ok {
		return encoded{}, fmt.Errorf("%T has no protobuf encoding", obj)
	}
	message, err := m.Marshal()
	if err != nil {
		return encoded{}, fmt.Errorf("encoding %T: %w", obj, err)
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	head, err := envelope(metav1.TypeMeta{APIVersion: apiVersion, Kind: kind})
	return encoded{head: head, message: message}, err
}

func (protobufEncoding) list(kind metav1.TypeMeta, version watchcache.Version, items []encoded) ([]byte, error) {
	meta, err := (&metav1.ListMeta{ResourceVersion: version.String()}).Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding the metadata of a list: %w", err)
	}
	size := sizeOfField(len(meta))
	for _, item := range items {
		size += sizeOfField(len(item.message))
	}
	head, err := envelope(kind)
	if err != nil {
		return nil, err
	}
	body := append(make([]byte, 0, len(head)+sizeOfField(size)), head...)
	body = appendField(appendHeader(body, unknownRaw, size), listMetadata, meta)
	for _, item := range items {
		body = appendField(body, listItems, item.message)
	}
	return body, nil
}

// event writes a frame: its length, then a metav1.WatchEvent whose object is a RawExtension that holds the envelope.
func (protobufEncoding) event(w *bufio.Writer, t watch.EventType, object encoded) error {
	inner := len(object.head) + sizeOfField(len(object.message))
	head := append(w.AvailableBuffer(), make([]byte, frameLength)...)
	head = append(appendHeader(head, eventType, len(t)), t...)
	head = appendHeader(head, eventObject, sizeOfField(inner))
	head = append(appendHeader(head, rawExtensionRaw, inner), object.head...)
	head = appendHeader(head, unknownRaw, len(object.message))
	binary.BigEndian.PutUint32(head, uint32(len(head)-frameLength+len(object.message)))
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(object.message)
	return err
}

// envelope returns the bytes before the raw field.
func envelope(kind metav1.TypeMeta) ([]byte, error) {
	meta, err := (&runtime.TypeMeta{APIVersion: kind.APIVersion, Kind: kind.Kind}).Marshal()
	if err != nil {
		return nil, fmt.Errorf("encoding the kind %s: %w", kind.Kind, err)
	}
	return appendField([]byte(magic), unknownTypeMeta, meta), nil
}

func appendField(b []byte, number protowire.Number, value []byte) []byte {
	return append(appendHeader(b, number, len(value)), value...)
}

// appendHeader appends the tag and the length of a field.
func appendHeader(b []byte, number protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.BytesType), uint64(size))
}

// sizeOfField returns the encoded size of a field. All field numbers here have tags of one byte.
func sizeOfField(size int) int { return protowire.SizeTag(1) + protowire.SizeBytes(size) }
