// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/ha"
)

// conntrackdTimeout bounds a call of conntrackd.
const conntrackdTimeout = 10 * time.Second

// Conntrackd gives the running conntrackd a command.
func Conntrackd(ctx context.Context, arguments ...string) error {
	_, err := askConntrackd(ctx, arguments...)
	return err
}

// askConntrackd returns what conntrackd says, of which ha.MaxCopying bytes are more than it has to say.
func askConntrackd(ctx context.Context, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, conntrackdTimeout)
	defer cancel()
	all := append([]string{"-C", "/etc/" + ha.ConntrackdFile}, arguments...)
	cmd := exec.CommandContext(ctx, "conntrackd", all...)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", fmt.Errorf("calling conntrackd: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err = cmd.Start(); errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("conntrackd is not installed: connections do not survive a takeover")
	}
	if err != nil {
		return "", fmt.Errorf("starting conntrackd: %w", err)
	}
	out, readErr := io.ReadAll(io.LimitReader(pipe, ha.MaxCopying+1))
	if len(out) > ha.MaxCopying {
		cancel() // it would wait for a reader
	}
	if err = cmd.Wait(); err == nil {
		err = readErr
	}
	if err != nil {
		text := strings.Join(strings.Fields(string(out)), " ")
		return "", fmt.Errorf("conntrackd %s: %w: %.200q: does conntrackd run?", strings.Join(arguments, " "), err, text)
	}
	return string(out), nil
}

// copying returns the counters of the running conntrackd.
func copying(ctx context.Context) (ha.Copying, error) {
	text, err := askConntrackd(ctx, ha.CopyingCommand()...)
	if err != nil {
		return ha.Copying{}, err
	}
	return ha.ParseCopying(text)
}
