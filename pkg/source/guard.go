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

// limits are what a server may ask of us. It is trusted to say the truth, not to be well.
type limits struct {
	// headers is how long it may take to begin an answer, idle how long it may say nothing in the middle of one. Watches
	// are told a bookmark each minute, and are quiet between those.
	headers, idle, idleWatch time.Duration
	// answer is the most that it may say in one answer, several times the list of the largest clusters; refusal the most in
	// one that says no. A watch may go on for ever.
	answer, refusal int64
	// retryAfter is the longest that it can have us wait.
	retryAfter time.Duration
}

var defaultLimits = limits{
	headers: 30 * time.Second, idle: 30 * time.Second, idleWatch: 3 * time.Minute,
	answer: 128 << 20, refusal: 1 << 20, retryAfter: 30 * time.Second,
}

var errSilent = errors.New("the server says nothing")

// guard gives up on answers that do not come, do not end, or are none of an API's: client-go would wait and read for ever. Of a
// refusal that is none it passes on the code alone.
type guard struct {
	limits
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	query, wait := request.URL.Query(), g.headers
	watch := query.Get("watch") != ""
	if watch && query.Get("sendInitialEvents") == "" {
		wait = g.idleWatch // some proxies hold back an answer until there is something in it
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
		// client-go would put the text into its error, and a proxy may show in it what it was sent: the token, too.
		text := fmt.Sprintf("%d %s, without a Status", response.StatusCode, http.StatusText(response.StatusCode))
		body.ReadCloser = struct {
			io.Reader
			io.Closer
		}{strings.NewReader(text), response.Body}
	case refused:
		body.ReadCloser = http.MaxBytesReader(nil, response.Body, g.refusal)
	case !isAPI(contentType):
		_ = body.Close()
		return nil, fmt.Errorf("%s answered with %q, which is no object of Kubernetes", request.URL.Host, contentType)
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

// isAPI reports whether an answer of this type can be an object. One that names no type is taken for what was asked for.
func isAPI(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (mediaType == runtime.ContentTypeJSON || mediaType == runtime.ContentTypeProtobuf)
}

// because says why a request ended, where it was us who ended it.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// guardedBody ends when nothing comes for a while.
type guardedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	watch  bool
}

// Read implements io.Reader. A watch that breaks just ends: whether the server is lost is found by the next one.
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
