// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"strconv"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Helpers are the external ports whose connections a kernel helper inspects for related connections. They only have an effect
// on ports of Mappings.
type Helpers struct {
	// FTP has control ports of FTP (tcp), TFTP has ports of TFTP (udp).
	FTP  []HelperPort `mapstructure:"ftp"`
	TFTP []HelperPort `mapstructure:"tftp"`
}

// HelperPort is a port other than 0.
type HelperPort uint16

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *HelperPort) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 16)
	if err == nil && n == 0 {
		err = errors.New("not a port")
	}
	*p = HelperPort(n)
	return err
}

// List returns the helpers in the form of a State.
func (h Helpers) List() []gateway.Helper {
	var list []gateway.Helper
	for _, p := range h.FTP {
		list = append(list, gateway.Helper{Name: "ftp", Protocol: gateway.TCP, Port: uint16(p)})
	}
	for _, p := range h.TFTP {
		list = append(list, gateway.Helper{Name: "tftp", Protocol: gateway.UDP, Port: uint16(p)})
	}
	return list
}
