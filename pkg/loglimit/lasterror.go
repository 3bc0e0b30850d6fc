// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package loglimit

// LastError recognizes repeated errors of something that is retried, so that an outage is logged once.
type LastError struct{ text string }

// Changed reports whether err is an error with another text than the last one. A nil error ends the outage: the next error
// counts as changed.
func (l *LastError) Changed(err error) bool {
	last := l.text
	l.text = ""
	if err != nil {
		l.text = err.Error()
	}
	return l.text != "" && l.text != last
}
