// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !pages

package main

import "github.com/spf13/cobra"

// buildCommands are none where no package is built.
func buildCommands() []*cobra.Command { return nil }
