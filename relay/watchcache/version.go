// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
)

// Version is a resource version. It is a decimal number, because clients compare versions as numbers (KEP-5504).
type Version uint64

// counterBits is enough for 1000 events per second during two years. The other bits are the epoch; two processes choose
// the same one with a probability of 1 to 67 million.
const counterBits = 36

// ErrExpired means that the history after a version is unknown: the version is too old, or another process assigned it.
var ErrExpired = errors.New("resource version is too old, or of another replica")

// NewEpoch returns a random version to begin counting at.
func NewEpoch() Version {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	// Bit 62 is set and bit 63 is clear: all versions have the same number of digits, none is 0, and each fits into an
	// int64.
	return Version(binary.BigEndian.Uint64(random[:])>>counterBits<<counterBits&^(1<<63) | 1<<62)
}

// ParseVersion parses a version that a client sent. A number that overflows is foreign (ErrExpired), not malformed.
func ParseVersion(s string) (Version, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, ErrExpired
	}
	return Version(v), err
}

func (v Version) String() string { return strconv.FormatUint(uint64(v), 10) }
