// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command smartnatd makes a Linux host outside a Kubernetes cluster forward what the cluster's Mappings say. This package
// reads the command line and the config, constructs everything that touches the world, and decides exit codes; it knows
// nothing of Mappings or packets itself.
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
)

// Exit codes. README.md has the table of them for all commands.
const (
	exitFailure = 1
	// exitUsage says that the command line, the config or the files of objects have to be changed first: a retry cannot help.
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with everything that it touches given to it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	command := newRootCommand()
	command.SetArgs(args)
	command.SetIn(stdin)
	command.SetOut(printableWriter{stdout})
	command.SetErr(printableWriter{stderr})
	understood := false
	command.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	lead := ""
	if isJournal(stderr) {
		lead = string(priority(logrus.ErrorLevel))
	}
	for line := range strings.Lines(err.Error() + "\n") {
		_, _ = command.ErrOrStderr().Write([]byte(lead + "smartnatd: " + line))
	}
	if usage := (usageError{}); errors.As(err, &usage) || !understood {
		return exitUsage
	}
	if code := (codeError{}); errors.As(err, &code) {
		return code.code
	}
	return exitFailure
}

// codeError ends the program with a code of its own.
type codeError struct {
	error
	code int
}

func (e codeError) Unwrap() error { return e.error }

// usageError is one that the user has to mend.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
