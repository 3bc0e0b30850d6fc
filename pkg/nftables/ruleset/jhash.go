// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"encoding/binary"
	"math/bits"
)

// jhash is the hash of the kernel's expression (include/linux/jhash.h), for keys of whole registers.
func jhash(key []byte, seed uint32) uint32 {
	const initval = 0xdeadbeef
	var words []uint32
	for ; len(key) >= 4; key = key[4:] {
		words = append(words, binary.NativeEndian.Uint32(key))
	}
	a := initval + uint32(4*len(words)) + seed
	b, c := a, a
	for ; len(words) > 3; words = words[3:] {
		a, b, c = a+words[0], b+words[1], c+words[2]
		a, b, c = mix(a, b, c)
	}
	switch len(words) {
	case 3:
		c += words[2]
		fallthrough
	case 2:
		b += words[1]
		fallthrough
	case 1:
		a += words[0]
		return final(a, b, c)
	}
	return c
}

func mix(a, b, c uint32) (uint32, uint32, uint32) {
	rotate := bits.RotateLeft32
	a = (a - c) ^ rotate(c, 4)
	c += b
	b = (b - a) ^ rotate(a, 6)
	a += c
	c = (c - b) ^ rotate(b, 8)
	b += a
	a = (a - c) ^ rotate(c, 16)
	c += b
	b = (b - a) ^ rotate(a, 19)
	a += c
	c = (c - b) ^ rotate(b, 4)
	b += a
	return a, b, c
}

func final(a, b, c uint32) uint32 {
	rotate := bits.RotateLeft32
	c = (c ^ b) - rotate(b, 14)
	a = (a ^ c) - rotate(c, 11)
	b = (b ^ a) - rotate(a, 25)
	c = (c ^ b) - rotate(b, 16)
	a = (a ^ c) - rotate(c, 4)
	b = (b ^ a) - rotate(a, 14)
	return (c ^ b) - rotate(b, 24)
}

// scale maps a hash to a number below n (reciprocal_scale in include/linux/kernel.h).
func scale(hash, n uint32) uint32 { return uint32(uint64(hash) * uint64(n) >> 32) }
