// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import "github.com/smartnat/smartnat/pkg/gateway"

// dropMark marks packets from a source that is not allowed: the table nat, which finds that out, must not drop.
func dropMark(own gateway.Ownership) gateway.Mark { return own.Flag(2) }

// rejectMark marks packets to a Frontend without Backends.
func rejectMark(own gateway.Ownership) gateway.Mark { return own.Flag(3) }
