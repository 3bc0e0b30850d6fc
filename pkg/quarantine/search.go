// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"errors"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// maxTries bounds a search: one part among ten thousand takes some twenty tries, of which each is a run of iptables-restore
// a family. Beyond it all that was refused together stays together, until it is tried again.
const maxTries = 64

// search finds out which of many parts are refused.
type search struct {
	// ask finds out whether parts are refused when they stand alone.
	ask func([]part) error
	// left is how many tries may be made.
	left int
	// refused says why, of those that are; suspected are those of them that nobody asked about alone.
	refused   map[part]string
	suspected map[part]bool
	// err is why nothing more can be found out.
	err error
}

// find looks for those of the parts that are refused, unless that is nobody's fault: when even what asks for
// nothing is refused. What else may be wrong then, with the other family for example, is told by the next try.
func (s *search) find(parts []part) {
	err := s.once(parts)
	if err == nil {
		return
	}
	s.left--
	if errors.Is(s.ask(nil), gateway.ErrRefused) {
		return
	}
	s.narrow(parts, err)
}

// try asks about parts, and about fewer of them where they are refused.
func (s *search) try(parts []part) {
	if err := s.once(parts); err != nil {
		s.narrow(parts, err)
	}
}

// narrow finds out of which of the parts it is the fault that all together are refused.
func (s *search) narrow(parts []part, err error) {
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
	// Where it is not in the first half it is in the second, but nobody is blamed for what he was not asked about alone.
	if rest := parts[half:]; len(s.refused) == before && len(rest) > 1 {
		s.narrow(rest, err)
	} else {
		s.try(rest)
	}
}

// once asks about the parts, and returns how they are refused. Where nothing can be found out, they are not.
func (s *search) once(parts []part) error {
	if s.err == nil {
		s.left--
		err := s.ask(parts)
		if errors.Is(err, gateway.ErrRefused) {
			return err
		}
		s.err = err
	}
	return nil
}

// holds reports whether a part that was asked about is not known to be taken.
func (s *search) holds(p part) bool {
	_, refused := s.refused[p]
	return refused || s.err != nil
}
