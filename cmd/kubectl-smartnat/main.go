// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl-smartnat is a plugin of kubectl, for administrators of a cluster. This package reads the command line and sets
// exit codes; package pkg/plugin does the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes. README.md has the table of them for all commands.
const (
	exitFailure = 1
	// exitUsage means that the command line is wrong, so a retry does not help.
	exitUsage = 2
)

// version is set by the build.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without globals.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := newRootCommand()
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "kubectl smartnat: %v\n", err)
	if usage := (usageError{}); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// usageError is an error that the user must fix.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
