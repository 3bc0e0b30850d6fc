// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"fmt"
)

// A write moves the first endpoint of a slice to an address that identifies the write. In JSON and protobuf alike, the
// address is text of a fixed length that occurs nowhere else in the objects. Hundreds of watchers need not decode what they
// receive, which would compete with the servers for the cores.
const (
	markPrefix = "10.199."
	markDigits = len("100.100")
	marks      = 100 * 100
)

func mark(write int) string { return fmt.Sprintf("%s%d.%d", markPrefix, 100+write/100, 100+write%100) }

// markOf returns the write in a frame.
func markOf(frame []byte) (write int, ok bool) {
	_, rest, ok := bytes.Cut(frame, []byte(markPrefix))
	if !ok || len(rest) < markDigits || rest[3] != '.' {
		return 0, false
	}
	for i, c := range rest[:markDigits] {
		if i == 3 {
			continue
		}
		if c < '0' || c > '9' {
			return 0, false
		}
		if i != 0 && i != 4 {
			write = 10*write + int(c-'0')
		}
	}
	return write, true
}
