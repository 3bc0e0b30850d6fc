// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package hold

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
)

// TestReadOwner covers valid answers and malformed ones, which must be errors.
func TestReadOwner(t *testing.T) {
	header := []byte{1, 0, 0, 0}
	for _, tc := range []struct {
		name    string
		answers [][]byte
		want    uint32
		fails   bool
	}{
		{"no answer", nil, 0, false},
		{"a table without an owner", [][]byte{header}, 0, false},
		{"an owner", [][]byte{append(header, 8, 0, tableOwnerPort, 0, 0, 0, 1, 2)}, 258, false},
		{"less than a header", [][]byte{header[:3]}, 0, true},
		{"a truncated attribute", [][]byte{append(header, 8, 0, tableOwnerPort, 0, 0, 0)}, 0, true},
		{"an attribute shorter than its header", [][]byte{append(header, 3, 0, tableOwnerPort, 0)}, 0, true},
		{"an owner of three bytes", [][]byte{append(header, 7, 0, tableOwnerPort, 0, 0, 0, 1, 0)}, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var answers []netlink.Message
			for _, data := range tc.answers {
				answers = append(answers, netlink.Message{Data: data})
			}
			if got, err := readOwner(answers); got != tc.want || (err != nil) != tc.fails {
				t.Errorf("readOwner = %d, %v; want %d, an error: %t", got, err, tc.want, tc.fails)
			}
		})
	}
}

// FuzzReadOwner feeds arbitrary answers: readOwner must not panic, and any owner that it returns must be in the answer.
func FuzzReadOwner(f *testing.F) {
	for _, seed := range [][]byte{nil, {1, 0, 0, 0}, {1, 0, 0, 0, 8, 0, tableOwnerPort, 0, 0, 0, 1, 2}, {1, 0, 0, 0, 3, 0, tableOwnerPort, 0}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		port, err := readOwner([]netlink.Message{{Data: answer}})
		if port != 0 && (err != nil || !bytes.Contains(answer, binary.BigEndian.AppendUint32(nil, port))) {
			t.Errorf("owner %d, %v out of %x", port, err, answer)
		}
	})
}
