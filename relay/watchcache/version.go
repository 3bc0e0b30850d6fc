// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strconv"
)

// Version is a resource version. Clients compare them as decimal numbers, so they are.
type Version uint64

// counterBits leave room for 1000 events a second during two years. The rest of a Version is the epoch: that two
// processes choose the same is as likely as one to 67 million.
const counterBits = 36

// ErrExpired says that what follows a version is not known: it is too old, or not of this process.
var ErrExpired = errors.New("resource version is too old, or of another replica")

// NewEpoch returns the version that a process begins to count at.
func NewEpoch() Version {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	// All versions have the same number of digits, none is 0, and all fit into an int64 for those who read them as one.
	return Version(binary.BigEndian.Uint64(random[:])>>counterBits<<counterBits&^(1<<63) | 1<<62)
}

// ParseVersion reads a version as clients send it. A number that is too large to be ours is foreign, not malformed.
func ParseVersion(s string) (Version, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, ErrExpired
	}
	return Version(v), err
}

func (v Version) String() string { return strconv.FormatUint(uint64(v), 10) }
