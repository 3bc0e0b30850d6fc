// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

// Codecs returns what answers are written with: JSON, whatever else a client would like better.
func Codecs() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return jsonOnly{serializer.NewCodecFactory(scheme)}
}

type jsonOnly struct{ serializer.CodecFactory }

func (s jsonOnly) SupportedMediaTypes() []runtime.SerializerInfo {
	for _, info := range s.CodecFactory.SupportedMediaTypes() {
		if info.MediaType == runtime.ContentTypeJSON {
			return []runtime.SerializerInfo{info}
		}
	}
	return nil
}

// transforms are the representations that a client can ask for besides the object itself.
type transforms struct{ table bool }

func (t transforms) AllowsMediaTypeTransform(_, _ string, target *schema.GroupVersionKind) bool {
	return target == nil || t.table && *target == metav1.SchemeGroupVersion.WithKind("Table")
}
func (transforms) AllowsServerVersion(string) bool  { return false }
func (transforms) AllowsStreamSchema(s string) bool { return s == "watch" }

// wantsTable reads the Accept header; it fails when that allows nothing that the relay can write.
func (h *Handler) wantsTable(req *http.Request) (bool, error) {
	media, _, err := negotiation.NegotiateOutputMediaType(req, h.codecs, transforms{table: true})
	return media.Convert != nil, err
}

func writeJSON(w http.ResponseWriter, req *http.Request, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %T: %w", v, err)
	}
	writeText(w, req, text)
	return nil
}

// writeText answers with JSON that is encoded already, compressed when it is long and the client can read that.
func writeText(w http.ResponseWriter, req *http.Request, text []byte) {
	responsewriters.SerializeObject(runtime.ContentTypeJSON, verbatim{}, w, req, http.StatusOK, &runtime.Unknown{Raw: text})
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
