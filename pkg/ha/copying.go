// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"errors"
	"strconv"
	"strings"
)

// CopyingCommand prints the counters that ParseCopying reads.
func CopyingCommand() []string { return []string{"-s"} }

// MaxCopying bounds the text of ParseCopying, in bytes. That of conntrackd has less than 2 kB.
const MaxCopying = 16 << 10

// Copying are the counters of conntrackd since its start.
type Copying struct {
	// Own is the number of connections that conntrackd gives the peer.
	Own uint64 `json:"own"`
	// Copied counts the connections of the peer that were created here, and NotCopied those that the kernel refused, or their changes.
	Copied    uint64 `json:"copied"`
	NotCopied uint64 `json:"notCopied"`
	// SendErrors and ReceiveErrors are those of the sockets on the sync link.
	SendErrors    uint64 `json:"sendErrors"`
	ReceiveErrors uint64 `json:"receiveErrors"`
	// Malformed and Lost are messages of the peer.
	Malformed uint64 `json:"malformed"`
	Lost      uint64 `json:"lost"`
}

// Problems returns the number of all that went wrong.
func (c Copying) Problems() uint64 {
	return c.NotCopied + c.SendErrors + c.ReceiveErrors + c.Malformed + c.Lost
}

// ParseCopying reads what conntrackd prints. An error is one line that repeats nothing of the text.
func ParseCopying(text string) (Copying, error) {
	c := Copying{}
	unknown := errors.New("conntrackd prints counters that this version does not know")
	if len(text) > MaxCopying {
		return c, unknown
	}
	section, found := "", map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, isSection := strings.CutSuffix(line, ":"); isSection {
			section, _, _ = strings.Cut(name, " (")
			continue
		}
		err := c.count(section, line, found)
		if err != nil {
			return Copying{}, unknown
		}
	}
	for _, section := range []string{"cache internal", "external inject", "UDP traffic", "message tracking"} {
		if !found[section] {
			return Copying{}, unknown
		}
	}
	return c, nil
}

// count reads one line of a section.
func (c *Copying) count(section, line string, found map[string]bool) error {
	fields := strings.Fields(line)
	number := func(i int, to *uint64) error {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		found[section] = true
		*to += n
		return err
	}
	switch {
	case section == "cache internal" && len(fields) == 4 && strings.HasPrefix(line, "current active connections:"):
		return number(3, &c.Own)
	case section == "external inject" && len(fields) == 5 && fields[0] == "connections" && fields[1] != "destroyed:" && fields[3] == "failed:":
		// To end a connection that is gone already fails too.
		if fields[1] == "created:" {
			if err := number(2, &c.Copied); err != nil {
				return err
			}
		}
		return number(4, &c.NotCopied)
	case section == "UDP traffic" && len(fields) == 6 && fields[1] == "Error":
		return errors.Join(number(0, &c.SendErrors), number(3, &c.ReceiveErrors))
	case section == "message tracking" && len(fields) == 6 && fields[1] == "Malformed":
		return errors.Join(number(0, &c.Malformed), number(3, &c.Lost))
	}
	return nil
}
