// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package loglimit

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// TestKinds logs more kinds than are remembered, each limited to one line a minute.
func TestKinds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		forget bool
		want   string
	}{
		{"the oldest is forgotten", true, "a b c d a free a+2"},
		{"kinds beyond the limit share a Limiter", false, "a b c free a+3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			log := logrus.New()
			log.SetOutput(&out)
			log.SetFormatter(New(&logrus.TextFormatter{DisableTimestamp: true}, Options{
				Kind:     func(e *logrus.Entry) (string, bool) { return e.Message, e.Message != "free" },
				New:      func() Limiter { return rate.NewLimiter(rate.Every(time.Minute), 1) },
				MaxKinds: 2, Forget: tc.forget, Field: "left",
			}))
			start := time.Unix(1000, 0)
			for i, message := range []string{"a", "b", "b", "c", "d", "a", "a", "a", "free"} {
				log.WithTime(start.Add(time.Duration(i) * time.Second)).Info(message)
			}
			log.WithTime(start.Add(2 * time.Minute)).Info("a")
			var got []string
			for line := range strings.Lines(out.String()) {
				text := strings.TrimSuffix(line[strings.Index(line, "msg=")+len("msg="):], "\n")
				got = append(got, strings.Replace(text, " left=", "+", 1))
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("logged %q, want %q", strings.Join(got, " "), tc.want)
			}
		})
	}
}
