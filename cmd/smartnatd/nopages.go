// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !pages

package main

import "github.com/spf13/cobra"

// buildCommands returns none in builds other than those of packages.
func buildCommands() []*cobra.Command { return nil }
