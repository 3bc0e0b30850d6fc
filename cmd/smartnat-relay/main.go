// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command smartnat-relay serves, to gateways outside a Kubernetes cluster, a read-only view of the cluster's Mappings and
// of what they name. This package reads the command line, handles signals and decides exit codes; it knows nothing of
// what is served.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"
)

// Exit codes.
const (
	exitFailure = 1
	// exitUsage says that the command line has to be changed first: a retry cannot help.
	exitUsage = 2
)

func main() {
	// A connection to the API server on which nothing comes is asked for a sign of life, and given up after 15 seconds instead
	// of 45. client-go takes this from the environment alone.
	for key, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "10", "HTTP2_PING_TIMEOUT_SECONDS": "5"} {
		if os.Getenv(key) == "" {
			_ = os.Setenv(key, seconds) // which cannot fail for these keys
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr, librariesLogTo)
	stop()
	os.Exit(status)
}

// run is main with everything that it touches given to it; libraries is told where they are to log to, which is global.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, libraries func(logrus.FieldLogger)) int {
	command := newRootCommand(libraries)
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "smartnat-relay: %v\n", err)
	if usage := (usageError{}); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// usageError is one that the user has to mend.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
