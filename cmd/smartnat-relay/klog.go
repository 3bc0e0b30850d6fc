// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// librariesLogTo sends the log of the Kubernetes libraries to log. Their errors become warnings, because the libraries go
// on after them; everything else is logged at debug level.
func librariesLogTo(log logrus.FieldLogger) { klog.SetLogger(logr.New(sink{log})) }

// sink implements logr.LogSink.
type sink struct{ log logrus.FieldLogger }

func (sink) Init(logr.RuntimeInfo) {}

func (sink) Enabled(level int) bool { return level == 0 }

func (s sink) Info(_ int, message string, pairs ...any) { s.with(pairs).Debug(message) }

func (s sink) Error(err error, message string, pairs ...any) {
	s.with(pairs).WithError(err).Warning(message)
}

func (s sink) WithValues(pairs ...any) logr.LogSink { return sink{s.with(pairs)} }

func (s sink) WithName(name string) logr.LogSink { return sink{s.log.WithField("logger", name)} }

// with adds the fields of a library's message, except for requests and their parts, which may hold secrets.
func (s sink) with(pairs []any) logrus.FieldLogger {
	fields := logrus.Fields{}
	for i := 0; i+1 < len(pairs); i += 2 {
		switch pairs[i+1].(type) {
		case url.Values, *url.URL, http.Header, *http.Request, *http.Response, *tls.ConnectionState:
			continue
		}
		fields[fmt.Sprint(pairs[i])] = fmt.Sprint(pairs[i+1])
	}
	return s.log.WithFields(fields)
}
