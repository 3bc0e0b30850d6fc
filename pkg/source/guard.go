// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// limits bound the resources that a server can make the gateway use. The server is trusted to be honest, not to work.
type limits struct {
	// headers bounds the time until a response begins, idle and idleWatch the time without data within one. A watch gets a
	// bookmark each minute and may be quiet in between.
	headers, idle, idleWatch time.Duration
	// answer bounds the size of a response, several times the list of the largest clusters, and refusal the size of an
	// error response, both in bytes. The size of a watch is not bounded.
	answer, refusal int64
	// retryAfter bounds the Retry-After that a server can set.
	retryAfter time.Duration
}

var defaultLimits = limits{
	headers: 30 * time.Second, idle: 30 * time.Second, idleWatch: 3 * time.Minute,
	answer: 128 << 20, refusal: 1 << 20, retryAfter: 30 * time.Second,
}

var errSilent = errors.New("the server does not respond")

// guard aborts responses that do not begin, do not end, or are not from a Kubernetes API: client-go would wait and read
// forever. From an error response that is not a Status, it passes on only the code.
type guard struct {
	limits
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	query, wait := request.URL.Query(), g.headers
	watch := query.Get("watch") != ""
	if watch && query.Get("sendInitialEvents") == "" {
		wait = g.idleWatch // some proxies hold a response back until it has a body
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	timer := time.AfterFunc(wait, func() { cancel(errSilent) })
	response, err := g.next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		timer.Stop()
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	if by, ok := request.Context().Value(answeredByKey{}).(*answeredBy); ok {
		by.server = request.URL.Host
	}
	body := &guardedBody{ReadCloser: response.Body, ctx: ctx, cancel: cancel, timer: timer, idle: g.idle, watch: watch}
	contentType := response.Header.Get("Content-Type")
	switch refused := response.StatusCode >= http.StatusMultipleChoices; {
	case refused && (contentType == "" || !isAPI(contentType)):
		// client-go would put the text into its error, and the page of a proxy may quote the request, including the token.
		text := fmt.Sprintf("%d %s, without a Status", response.StatusCode, http.StatusText(response.StatusCode))
		body.ReadCloser = struct {
			io.Reader
			io.Closer
		}{strings.NewReader(text), response.Body}
	case refused:
		body.ReadCloser = http.MaxBytesReader(nil, response.Body, g.refusal)
	case !isAPI(contentType):
		_ = body.Close()
		return nil, fmt.Errorf("%s answered with content type %q, want a Kubernetes object", request.URL.Host, contentType)
	case watch:
		body.idle = g.idleWatch
	default:
		body.ReadCloser = http.MaxBytesReader(nil, response.Body, g.answer)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		response.Header.Set("Retry-After", strconv.Itoa(min(seconds, int(g.retryAfter.Seconds()))))
	}
	timer.Stop()
	response.Body = body
	return response, nil
}

// isAPI reports whether the content type can hold an object. A response without a type is taken for the requested one.
func isAPI(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (mediaType == runtime.ContentTypeJSON || mediaType == runtime.ContentTypeProtobuf)
}

// because adds the cause if the guard itself ended the request.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// guardedBody fails a read that takes longer than idle.
type guardedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	watch  bool
}

// Read implements io.Reader. A broken watch ends with EOF, because the next request finds out whether the server is lost.
func (b *guardedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case b.watch:
		err = io.EOF
	default:
		err = because(b.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *guardedBody) Close() error {
	b.timer.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
