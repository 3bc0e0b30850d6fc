// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestSecrets(t *testing.T) {
	var s Secrets
	s.Text(" planted-token\n")
	s.Text("planted-token-longer")
	s.Text("short")
	s.URL("https://someone:pass-word@10.0.0.1")
	s.URL("https://10.0.0.1")
	s.Kubeconfig([]byte("not: [yaml planted-in-a-broken-file"))
	s.Kubeconfig([]byte("users: [{user: {username: planted-user, client-key-data: cGxhbnRlZC1rZXk=, name: a-name}}]"))
	for text, want := range map[string]string{
		"a planted-token.":                    "a [removed].",
		"a planted-token-longer":              "a [removed]",
		"cGxhbnRlZC10b2tlbg==":                "[removed]",
		"short":                               "short",
		"https://someone:pass-word@10.0.0.1":  "https://[removed]:[removed]@10.0.0.1",
		"not: [yaml planted-in-a-broken-file": "[removed]",
		"planted-user planted-key a-name":     "[removed] [removed] a-name",
	} {
		if got := string(s.Remove([]byte(text))); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestArchive(t *testing.T) {
	a := NewArchive(io.Discard, "f", time.Time{}, Secrets{})
	a.Add("large", []byte(strings.Repeat("x", maxPart+1)), nil)
	a.Add("absent", nil, errors.New("not\nthere"))
	a.Add("whole", []byte("x"), nil)
	missing, err := a.Close()
	if err != nil || strings.Join(missing, "; ") != "large: more than 32 MiB; absent: not there" {
		t.Errorf("%q, %v", missing, err)
	}
	a = NewArchive(full{}, "f", time.Time{}, Secrets{})
	a.Add("a", []byte("x"), nil)
	if _, err := a.Close(); err == nil || !strings.Contains(err.Error(), "writing the archive: no space left") {
		t.Errorf("a full disk: %v", err)
	}
}
