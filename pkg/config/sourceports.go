// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// SourcePorts is a range of source ports ("1024-65535"), or empty ("keep").
type SourcePorts struct{ gateway.PortRange }

const keepSourcePorts = "keep"

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *SourcePorts) UnmarshalText(text []byte) error {
	p.PortRange = gateway.PortRange{}
	if string(text) == keepSourcePorts {
		return nil
	}
	first, last, _ := strings.Cut(string(text), "-")
	low, err1 := strconv.ParseUint(first, 10, 16)
	high, err2 := strconv.ParseUint(last, 10, 16)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if low == 0 || low > high {
		return errors.New("not a range")
	}
	p.PortRange = gateway.PortRange{First: uint16(low), Last: uint16(high)}
	return nil
}
