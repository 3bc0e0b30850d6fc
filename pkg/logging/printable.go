// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// Printable escapes what a terminal would interpret: all control characters but newline and tab. They become \u001b and the
// like, which JSON decodes to the original.
func Printable(text []byte) []byte {
	b := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\u%04x`, text[0])
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			b = append(b, text[:n]...)
		default:
			b = appendEscaped(b, r)
		}
		text = text[n:]
	}
	return b
}

func appendEscaped(b []byte, r rune) []byte {
	if r > 0xffff {
		return fmt.Appendf(b, `\U%08x`, r)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}

// PrintableWriter makes text printable before it writes it to To.
type PrintableWriter struct{ To io.Writer }

// Write implements io.Writer.
func (w PrintableWriter) Write(text []byte) (int, error) {
	if _, err := w.To.Write(Printable(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}
