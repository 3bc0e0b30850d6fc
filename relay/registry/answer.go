// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
)

// compressFrom is the size in bytes above which a response is compressed, the same as in kube-apiserver: compressing less
// costs more than it saves.
const compressFrom = 128 << 10

// compressors holds idle gzip writers.
var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

// WriteError writes an error as a Status.
func WriteError(w http.ResponseWriter, req *http.Request, err error) {
	status := statusOf(err)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	writeObject(w, req, int(status.Code), status)
}

// statusOf converts an error to a Status. An error that is not an APIStatus becomes an internal error.
func statusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	status := known.Status()
	status.TypeMeta = typeMeta("Status")
	return &status
}

// writeObject writes an object in the encoding that the client prefers. If the client accepts none, it gets errors as
// JSON, so that negotiation does not hide them.
func writeObject(w http.ResponseWriter, req *http.Request, code int, obj runtime.Object) {
	_, info, err := negotiation.NegotiateOutputMediaType(req, anyEncoding, negotiation.DefaultEndpointRestrictions)
	as := encodings[info.MediaType]
	if err != nil {
		as = jsonEncoding{}
		if code < http.StatusBadRequest {
			status := statusOf(err)
			code, obj = int(status.Code), status
		}
	}
	object, err := as.object(obj)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(w, req, code, as.mediaType(), object.bytes())
}

// writeBody writes an encoded response, compressed if it is long and the client accepts gzip. A failed write is ignored,
// because there is no client left to report it to.
func writeBody(w http.ResponseWriter, req *http.Request, code int, mediaType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("X-Content-Type-Options", "nosniff")
	if len(body) <= compressFrom || !readsGzip(req) {
		w.WriteHeader(code)
		_, _ = w.Write(body)
		return
	}
	header.Set("Content-Encoding", "gzip")
	header.Add("Vary", "Accept-Encoding")
	w.WriteHeader(code)
	compressor := compressors.Get().(*gzip.Writer)
	compressor.Reset(w)
	_, _ = compressor.Write(body)
	_ = compressor.Close()
	compressor.Reset(io.Discard)
	compressors.Put(compressor)
}

func readsGzip(req *http.Request) bool {
	for encoding := range strings.SplitSeq(req.Header.Get("Accept-Encoding"), ",") {
		encoding, _, _ = strings.Cut(encoding, ";")
		if strings.TrimSpace(encoding) == "gzip" {
			return true
		}
	}
	return false
}
