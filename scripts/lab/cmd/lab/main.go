// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command lab gives interactive access to the lab: `up` starts it and keeps it running, `shell HOST` opens a shell on one of
// its hosts, `down` ends it, `demo` shows SmartNat at work, and `pictures` takes those of the documents. It needs root or user namespaces and changes nothing outside
// the lab's namespaces.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "A small world of hosts and a real Kubernetes control plane, in network namespaces",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(upCommand(), shellCommand(), downCommand(), demoCommand(), picturesCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}
