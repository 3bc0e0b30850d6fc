// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// FuzzReadFiles proves for any file content that reading does not panic, that each line of the error names the document,
// and that each object has a name.
func FuzzReadFiles(f *testing.F) {
	for _, text := range []string{
		"", "---", "---\n---\n", "# nothing\n", "{", "[]", "a: &a [*a]", "\x00", "kind: X", mappingYAML, serviceYAML, echoSlice, mappingYAML + "---\n" + mappingYAML,
		"apiVersion: v1\nkind: List\nitems: [~, {}, {apiVersion: v1, kind: List, items: [" + echoService + "]}]\n",
		`{"apiVersion":"v1","kind":"ServiceList","items":[` + echoService + `,{"metadata":{"name":"b"},"spec":{"ports":[{"port":1,"targetPort":{}}]}}]}`,
		"apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: x, creationTimestamp: soon}\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		snapshot, err := ReadFiles([]string{"-"}, strings.NewReader(text))
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "stdin: ") {
					t.Errorf("error line does not name the document: %q in %q", line, err)
				}
			}
		}
		consistent(t, snapshot)
	})
}

// FuzzAnswer sends any response to a list or a watch. It must yield valid objects or an error, never an empty list instead
// of an error.
func FuzzAnswer(f *testing.F) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	server := &anything{}
	var clients []*resourceClient
	codecs := newCodecs()
	log := logrus.New()
	log.SetOutput(io.Discard)
	for _, r := range resources() {
		client, err := newResourceClient(&rest.Config{Host: "https://relay", QPS: -1}, &http.Client{Transport: server}, codecs, r, newContact(log))
		if err != nil {
			f.Fatal(err)
		}
		clients = append(clients, client)
	}
	for n, object := range []string{echoMapping, echoService, echoSlice} {
		group := strings.SplitN(strings.TrimPrefix(object, `{"apiVersion":"`), `"`, 2)[0]
		kind := []string{"MappingList", "ServiceList", "EndpointSliceList"}[n]
		list := `{"kind":"` + kind + `","apiVersion":"` + group + `","metadata":{"resourceVersion":"7"},"items":[` + object + `]}`
		for _, body := range []string{list, strings.Replace(list, object, "null", 1), list[:len(list)/2], "<html>", "", "null", "{}", "[]", `{"kind":"Status","apiVersion":"v1"}`} {
			f.Add(uint8(n), false, false, http.StatusOK, []byte(body))
		}
		f.Add(uint8(n), true, false, http.StatusOK, []byte(event("ADDED", object)+event("DELETED", object)+event("BOOKMARK", object)))
		f.Add(uint8(n), true, false, http.StatusOK, []byte(event("ERROR", `{"kind":"Status","apiVersion":"v1","code":410}`)+event("", "null")+event("ADDED", list)))
	}
	f.Add(uint8(1), false, true, http.StatusOK, protobufOf(f, &corev1.ServiceList{Items: []corev1.Service{{ObjectMeta: metav1.ObjectMeta{Name: "echo"}}}}))
	f.Add(uint8(1), false, true, http.StatusOK, []byte("k8s\x00"))
	f.Add(uint8(1), true, true, http.StatusOK, []byte{0, 0, 0, 4, 'k', '8', 's', 0, 0xff, 0xff, 0xff, 0xff})
	f.Add(uint8(0), false, false, http.StatusServiceUnavailable, []byte("later"))
	f.Fuzz(func(t *testing.T, resource uint8, watch, proto bool, status int, body []byte) {
		client := clients[int(resource)%len(clients)]
		*server = anything{status: 200 + max(status, -status)%400, body: body, contentType: runtime.ContentTypeJSON}
		if proto {
			server.contentType = runtime.ContentTypeProtobuf
		}
		var known objects.Store
		take := func(object runtime.Object) error {
			if m, err := meta.Accessor(object); err != nil || m.GetName() == "" || m.GetNamespace() == "" {
				t.Errorf("%q is taken for an object", body)
			}
			known.Set(strip(client.Kind, object.(kinds.Object)))
			return nil
		}
		if watch {
			if w, _, err := client.watch(t.Context(), metav1.ListOptions{}); err == nil {
				for event := range w.ResultChan() {
					if event.Type != apiwatch.Error && event.Type != apiwatch.Bookmark {
						_ = take(event.Object)
					}
				}
				w.Stop()
			}
		} else if list, _, err := client.list(t.Context(), metav1.ListOptions{}); err == nil {
			if server.status >= http.StatusMultipleChoices {
				t.Errorf("status %d is taken for a list", server.status)
			}
			if err := meta.EachListItem(list, take); err != nil {
				t.Error(err)
			}
			if m, err := meta.ListAccessor(list); err != nil || m.GetResourceVersion() == "" {
				t.Errorf("%q is taken for a list", body)
			}
		}
		consistent(t, known.Snapshot())
	})
}

// consistent checks that the objects can be calculated, whatever they hold.
func consistent(t *testing.T, snapshot objects.Snapshot) {
	t.Helper()
	_, findings := calc.Calculate(snapshot, gateway.Host{}, config.Default())
	for _, finding := range findings {
		if strings.Contains(finding.Message, "\n") {
			t.Errorf("finding %+v", finding)
		}
	}
}

// anything is a server that sends the same response to all requests.
type anything struct {
	status      int
	contentType string
	body        []byte
}

func (a *anything) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/2.0", ProtoMajor: 2, Request: req,
		Header: http.Header{"Content-Type": {a.contentType}}, Body: io.NopCloser(bytes.NewReader(a.body)),
	}, nil
}

func protobufOf(f *testing.F, object runtime.Object) []byte {
	f.Helper()
	object.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceList"))
	scheme := newScheme()
	var b bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(object, &b); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}
