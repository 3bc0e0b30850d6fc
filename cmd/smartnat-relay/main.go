// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command smartnat-relay serves a read-only view of a Kubernetes cluster's Mappings, and of the Services and
// EndpointSlices that they name, to gateways outside the cluster. This package reads the command line, handles signals and
// sets exit codes; package relay/server does the rest.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

// Exit codes. cmd/smartnatd/README.md has the table of them for all commands.
const (
	exitFailure = 1
	// exitUsage means that the command line is wrong, so a retry does not help.
	exitUsage = 2
)

func main() {
	// Ping quiet connections to the API server and close dead ones after 15 seconds instead of 45. client-go reads these
	// timeouts from the environment only.
	for key, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if os.Getenv(key) == "" {
			_ = os.Setenv(key, seconds) // cannot fail for these keys
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr, librariesLogTo)
	stop()
	os.Exit(status)
}

// run is main without globals. It calls libraries to redirect their log, which is global.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, libraries func(logrus.FieldLogger)) int {
	command := newRootCommand(libraries)
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	parsed := false
	command.PersistentPreRun = func(*cobra.Command, []string) { parsed = true }
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error() + "\n") {
		fmt.Fprint(stderr, "smartnat-relay: "+line)
	}
	if usage := (usageError{}); errors.As(err, &usage) || !parsed {
		return exitUsage
	}
	return exitFailure
}

// usageError is an error that the user must fix.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
