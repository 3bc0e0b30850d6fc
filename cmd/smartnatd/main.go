// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command smartnatd makes a Linux host outside a Kubernetes cluster forward traffic as the cluster's Mappings define. This
// package reads the command line and the config, constructs the parts, and chooses exit codes. It knows nothing about Mappings
// or packets.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/logging"
)

// Exit codes. README.md has the table for all commands.
const (
	exitFailure = 1
	// exitUsage means that the command line, the config or the object files have to change first: a retry cannot help.
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its dependencies as parameters.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	command := newRootCommand()
	command.SetArgs(args)
	command.SetIn(stdin)
	command.SetOut(logging.PrintableWriter{To: stdout})
	command.SetErr(logging.PrintableWriter{To: stderr})
	parsed := false
	command.PersistentPreRun = func(*cobra.Command, []string) { parsed = true }
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	lead := ""
	if logging.IsJournal(stderr) {
		lead = logging.Priority(logrus.ErrorLevel)
	}
	for line := range strings.Lines(err.Error() + "\n") {
		_, _ = command.ErrOrStderr().Write([]byte(lead + "smartnatd: " + line))
	}
	if usage := (usageError{}); errors.As(err, &usage) || !parsed {
		return exitUsage
	}
	if code := (codeError{}); errors.As(err, &code) {
		return code.code
	}
	return exitFailure
}

// codeError ends the program with a specific exit code.
type codeError struct {
	error
	code int
}

func (e codeError) Unwrap() error { return e.error }

// usageError is an error that the user has to fix.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
