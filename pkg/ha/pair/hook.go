// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package pair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/atomicfile"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/ha"
)

// moveAddresses calls the hook, one process at a time. Of those that wait while another one calls it, only the last one calls it then:
// it is idempotent, and sees what happened meanwhile.
func (n noted) moveAddresses(ctx context.Context, runtimeDir string, hook ha.Hook) error {
	return locked(ha.RoleFile(runtimeDir)+".hook", func() error {
		if last, err := readNoted(runtimeDir); err == nil && n.before(last) {
			return nil
		}
		return n.callHook(ctx, runtimeDir, hook, ha.HookTimeout, ha.HookPause)
	})
}

// callHook calls a hook until it succeeds, or the box has taken another role since. keepalived may report the same role again and again,
// which must not end the calls.
func (n noted) callHook(ctx context.Context, runtimeDir string, hook ha.Hook, timeout time.Duration, pause func(failed int) time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if last, err := readNoted(runtimeDir); err == nil && n.before(last) && last.Role != n.Role {
				cancel()
			}
			wait(ctx, 100*time.Millisecond)
		}
	}()
	var err error
	for attempt := 1; attempt <= ha.HookAttempts; attempt++ {
		err = runHook(ctx, hook, n.Role, timeout)
		if ctx.Err() != nil {
			return nil
		}
		result := ha.HookResult{Role: n.Role, Attempts: attempt, Ended: time.Now().UTC()}
		if err != nil {
			result.Problem = err.Error()
		}
		text, noteErr := json.Marshal(result)
		if noteErr == nil {
			noteErr = atomicfile.Write(ha.HookFile(runtimeDir), append(text, '\n'), 0o600)
		}
		if err == nil || noteErr != nil {
			return noteErr
		}
		wait(ctx, pause(attempt))
	}
	return fmt.Errorf("gave up after %d calls: %w", ha.HookAttempts, err)
}

// runHook calls a hook once. An error is one line with the end of what it printed.
func runHook(ctx context.Context, hook ha.Hook, role ha.Role, timeout time.Duration) error {
	if err := config.CheckHook(hook.Path); err != nil {
		return fmt.Errorf("not calling the hook: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, hook.Path, string(role))
	cmd.Env = append(os.Environ(), hook.Environment(role)...)
	cmd.Dir = "/"
	// Its children end with it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the hook %s took more than %s", hook.Path, timeout)
	}
	return fmt.Errorf("the hook %s: %w: %q", hook.Path, err, strings.Join(strings.Fields(string(said.text)), " "))
}

// tail keeps the end of a text.
type tail struct{ text []byte }

const maxTail = 400

func (t *tail) Write(text []byte) (int, error) {
	t.text = append(t.text, text...)
	t.text = append([]byte{}, t.text[max(0, len(t.text)-maxTail):]...)
	return len(text), nil
}

// ReadHook returns the result of the last call of a hook, or nil if there was none.
func ReadHook(runtimeDir string) (*ha.HookResult, error) {
	text, err := os.ReadFile(ha.HookFile(runtimeDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	result := &ha.HookResult{}
	if err == nil {
		err = json.Unmarshal(text, result)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the result of the hook: %w", err)
	}
	return result, nil
}
