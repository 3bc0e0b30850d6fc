// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"errors"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxTries is the maximum number of tries in one search. Finding one part among ten thousand takes about twenty, each of
// which runs iptables-restore once per family. Parts that are still undecided at the limit stay suspected until the next
// search.
const maxTries = 64

// search finds out which parts are refused.
type search struct {
	// tryParts tries parts without any others and returns the error.
	tryParts func([]part) error
	// left is the number of remaining tries.
	left int
	// refused maps each refused part to the error. suspected are those that were never tried alone.
	refused   map[part]string
	suspected map[part]bool
	// err is the error that stopped the search.
	err error
}

// findRefused searches parts for refused ones. It finds none if the shared state alone is refused. Other problems, such as those
// of the other family, show up in the next try.
func (s *search) findRefused(parts []part) {
	err := s.tryOnce(parts)
	if err == nil {
		return
	}
	s.left--
	if errors.Is(s.tryParts(nil), gateway.ErrRefused) {
		return
	}
	s.bisect(parts, err)
}

// try tries all parts at once and bisects them if they are refused.
func (s *search) try(parts []part) {
	if err := s.tryOnce(parts); err != nil {
		s.bisect(parts, err)
	}
}

// bisect finds the refused parts among parts that were refused together.
func (s *search) bisect(parts []part, err error) {
	if len(parts) == 1 || s.left <= 0 {
		for _, p := range parts {
			s.refused[p], s.suspected[p] = oneLine(err), len(parts) > 1
		}
		return
	}
	half := len(parts) / 2
	before := len(s.refused)
	s.try(parts[:half])
	if s.err != nil {
		return
	}
	// If the first half is good, the fault is in the second half. A single part is still tried alone before it is blamed.
	if rest := parts[half:]; len(s.refused) == before && len(rest) > 1 {
		s.bisect(rest, err)
	} else {
		s.try(rest)
	}
}

// tryOnce tries the parts and returns the error if they are refused. It returns nil if the search has failed.
func (s *search) tryOnce(parts []part) error {
	if s.err == nil {
		s.left--
		err := s.tryParts(parts)
		if errors.Is(err, gateway.ErrRefused) {
			return err
		}
		s.err = err
	}
	return nil
}

// mustStay reports whether a part must stay quarantined: it was refused, or the search failed before it could be accepted.
func (s *search) mustStay(p part) bool {
	_, refused := s.refused[p]
	return refused || s.err != nil
}
