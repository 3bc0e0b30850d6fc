// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

// MaglevSlots returns the number of slots for n Backends: a prime that gives each Backend ten slots or more, so that shares differ by
// at most a tenth. There are few sizes, because another size moves most clients. The kernel holds an element for each slot of each
// port, so a table is no larger than it must be.
func MaglevSlots(n int) int {
	sizes := [...]int{61, 251, 1021, 4093, 16381}
	for _, size := range sizes {
		if 10*n <= size {
			return size
		}
	}
	return 65521
}
