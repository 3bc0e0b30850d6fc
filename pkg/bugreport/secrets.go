// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package bugreport

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// shortest is the length from which a text counts as a secret: shorter ones occur by chance.
const shortest = 6

// removed replaces a secret.
const removed = "[removed]"

// Secrets are texts that must not leave the host.
type Secrets struct{ texts []string }

// Text adds a text, such as a token, and its form in base64.
func (s *Secrets) Text(text string) {
	text = strings.TrimSpace(text)
	if len(text) < shortest {
		return
	}
	for _, form := range []string{text, base64.StdEncoding.EncodeToString([]byte(text)), url.QueryEscape(text)} {
		if !slices.Contains(s.texts, form) {
			s.texts = append(s.texts, form)
		}
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(s.texts, func(a, b string) int { return len(b) - len(a) })
}

// Lines adds each line of a file, such as a key in PEM, except for the lines that begin and end it.
func (s *Secrets) Lines(content []byte) {
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "-----") {
			s.Text(line)
		}
	}
	s.Text(base64.StdEncoding.EncodeToString(content))
}

// URL adds the password and the user of a URL.
func (s *Secrets) URL(text string) {
	if u, err := url.Parse(text); err == nil && u.User != nil {
		password, _ := u.User.Password()
		s.Text(password)
		s.Text(u.User.Username())
	}
}

// Config adds what may be a secret in a config, and passes all values that are absolute paths.
func (s *Secrets) Config(content []byte, file func(path string)) {
	var document any
	if err := yaml.Unmarshal(content, &document); err != nil {
		s.Lines(content)
		return
	}
	walk("", document, func(key, value string) {
		key = strings.ToLower(key)
		switch {
		case strings.HasPrefix(value, "/"):
			file(value)
		case strings.Contains(key, "token") || strings.Contains(key, "key") || key == "path":
			s.Lines([]byte(value))
			s.Text(value)
		}
		s.URL(value)
	})
}

// Kubeconfig adds the values of a kubeconfig that identify a user, and decoded keys.
func (s *Secrets) Kubeconfig(content []byte) {
	var document any
	if err := yaml.Unmarshal(content, &document); err != nil {
		s.Lines(content) // whatever it is
		return
	}
	walk("", document, func(key, value string) {
		s.URL(value)
		// The names of kubeconfigs, and those that programs for credentials take (env, args, auth-provider).
		if !slices.ContainsFunc([]string{"token", "password", "username", "key-data", "secret", "args", "value"}, func(part string) bool {
			return strings.Contains(strings.ToLower(key), part)
		}) {
			return
		}
		s.Text(value)
		if decoded, err := base64.StdEncoding.DecodeString(value); err == nil {
			s.Lines(decoded)
		}
	})
}

// walk passes all texts of a document, with the key of each.
func walk(key string, value any, each func(key, value string)) {
	switch value := value.(type) {
	case map[string]any:
		for k, v := range value {
			walk(k, v, each)
		}
	case []any:
		for _, v := range value {
			walk(key, v, each)
		}
	case string:
		each(key, value)
	}
}

// Remove returns the content without secrets.
func (s *Secrets) Remove(content []byte) []byte {
	for _, text := range s.texts {
		content = bytes.ReplaceAll(content, []byte(text), []byte(removed))
	}
	return content
}
