// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func TestLinesThatComeTooOftenAreLeftOut(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(logOptions{level: "info", format: "text"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(0, 0)
	for range 1000 {
		log.WithTime(start).Warn("flood")
	}
	log.WithTime(start).Warn("another")
	if got := strings.Count(out.String(), "flood"); got != linesAtOnce {
		t.Errorf("%d lines of 1000, want %d", got, linesAtOnce)
	}
	if !strings.Contains(out.String(), "msg=another") {
		t.Errorf("another message was dropped:\n%s", out.String())
	}
	out.Reset()
	log.WithTime(start.Add(time.Minute)).Warn("flood")
	if got, want := out.String(), fmt.Sprint("left-out=", 1000-linesAtOnce); !strings.Contains(got, want) || !strings.Contains(got, "level=warning msg=flood") {
		t.Errorf("the next line is %q, want %s in it", got, want)
	}
	out.Reset()
	for i := range 2 * limitedMessages {
		log.WithTime(start).Warn("message ", i)
	}
	if got := strings.Count(out.String(), "\n"); got > limitedMessages+linesAtOnce {
		t.Errorf("%d lines of distinct messages, want at most %d", got, limitedMessages+linesAtOnce)
	}
}

// TestLibrariesLogNoRequests proves that parts of requests are not logged, whatever a library passes on.
func TestLibrariesLogNoRequests(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	sink{log}.Error(errors.New("invalid"), "Couldn't parse request", "request", url.Values{"token": {secret}}, "header", http.Header{"Authorization": {secret}},
		"url", &url.URL{RawQuery: secret}, "count", 3)
	if got := out.String(); strings.Contains(got, secret) || !strings.Contains(got, "count=3") || !strings.Contains(got, "error=invalid") {
		t.Errorf("logged %s", got)
	}
}
