// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/framer"
)

// ask sends a request and describes the response by what two servers have in common: the status, the media type, the kind
// and the names of objects in order, and the content of a Status. It reads a watch to its end.
func ask(t *testing.T, client *http.Client, method, url, accept string) string {
	t.Helper()
	resp := open(t, client, method, url, accept)
	defer resp.Body.Close()
	head := fmt.Sprintln(resp.StatusCode, resp.Header.Get("Content-Type"))
	if strings.Contains(url, "watch") && resp.StatusCode == http.StatusOK {
		return head + eventsOf(t, resp)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return head + describe(t, body) + "\n"
}

// open sends a request again until the status is not 429.
func open(t *testing.T, client *http.Client, method, url, accept string) *http.Response {
	t.Helper()
	for {
		resp := send(t, client, method, url, accept)
		if resp.StatusCode != http.StatusTooManyRequests {
			return resp
		}
		_ = resp.Body.Close()
		time.Sleep(100 * time.Millisecond)
	}
}

func send(t *testing.T, client *http.Client, method, url, accept string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// eventsOf reads a watch to its end.
func eventsOf(t *testing.T, resp *http.Response) string {
	t.Helper()
	var b strings.Builder
	next := eventsIn(resp)
	for {
		eventType, object, err := next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatalf("%v after\n%s", err, b.String())
		}
		fmt.Fprintln(&b, eventType, describe(t, object))
	}
}

// eventsIn returns a function that reads the next event of a watch, in either encoding.
func eventsIn(resp *http.Response) nextEvent {
	if strings.HasSuffix(resp.Header.Get("Content-Type"), ";stream=watch") {
		return protobufEvents(resp.Body)
	}
	return jsonEvents(resp.Body)
}

type nextEvent func() (eventType string, object []byte, err error)

func jsonEvents(body io.Reader) nextEvent {
	decoder := json.NewDecoder(body)
	return func() (string, []byte, error) {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		err := decoder.Decode(&e)
		return e.Type, e.Object, err
	}
}

func protobufEvents(body io.ReadCloser) nextEvent {
	frames := framer.NewLengthDelimitedFrameReader(body)
	return func() (string, []byte, error) {
		frame := make([]byte, 1<<20)
		n, err := frames.Read(frame)
		if err != nil {
			return "", nil, err
		}
		var e metav1.WatchEvent
		err = e.Unmarshal(frame[:n])
		return e.Type, e.Object.Raw, err
	}
}

// answer holds the fields that are compared for objects of any kind.
type answer struct {
	metav1.TypeMeta
	Metadata struct {
		metav1.ListMeta
		Name        string
		Annotations map[string]string
	}
	Items []answer
	Rows  []struct{ Cells []any }

	Status  any
	Message string
	Reason  metav1.StatusReason
	Details *metav1.StatusDetails
	Code    int
}

// decoder decodes all kinds that the test requests as protobuf.
func decoder(t *testing.T) runtime.Decoder {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(scheme).UniversalDeserializer()
}

// describe returns the kind and the content of an object.
func describe(t *testing.T, body []byte) string {
	t.Helper()
	if bytes.HasPrefix(body, []byte("k8s\x00")) {
		obj, kind, err := decoder(t).Decode(body, nil, nil)
		if err != nil {
			t.Fatalf("%v in %q", err, body)
		}
		obj.GetObjectKind().SetGroupVersionKind(*kind)
		if body, err = json.Marshal(obj); err != nil {
			t.Fatal(err)
		}
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Sprintf("%q", body)
	}
	text := a.APIVersion + " " + a.Kind
	if a.Kind == "Status" {
		details, _ := json.Marshal(a.Details)
		return fmt.Sprintf("%s %v %d %s %s %s", text, a.Status, a.Code, a.Reason, a.Message, details)
	}
	if a.Metadata.Name != "" {
		text += " " + a.Metadata.Name
	}
	for _, item := range a.Items {
		text += " " + item.Metadata.Name
	}
	for _, row := range a.Rows {
		text += fmt.Sprint(" ", row.Cells[0])
	}
	if a.Metadata.Annotations[metav1.InitialEventsAnnotationKey] != "" {
		text += " end of the initial events"
	}
	if a.Metadata.ResourceVersion != "" {
		text += ", versioned"
	}
	if a.Metadata.Continue != "" {
		text += ", to be continued"
	}
	return text
}
