// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// runner tracks every process that the lab started, so that it can end them.
type runner struct {
	mu        sync.Mutex
	processes []*Process
}

// Process is a long-running program. Its output goes to a log file.
type Process struct {
	command
	host *Host

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// command describes what to run.
type command struct {
	name string // also of the log
	argv []string
	env  []string
	// ready returns nil once the program is ready. If it is nil, the program is ready at once.
	ready func(ctx context.Context) error
	// outside starts the program in the lab's namespaces instead of the host's.
	outside bool
	// supervisor, if set, is informed of each start and of Stop, and closed with the lab.
	supervisor *testenv.Supervisor
}

// Start starts a program on the host. name is chosen by the caller and also names the log.
func (h *Host) Start(name string, env []string, argv ...string) (*Process, error) {
	return h.start(context.Background(), command{name: name, env: env, argv: argv})
}

func (h *Host) start(ctx context.Context, c command) (*Process, error) {
	p := &Process{command: c, host: h}
	if err := p.start(); err != nil {
		return nil, err
	}
	h.run.mu.Lock()
	h.run.processes = append(h.run.processes, p)
	h.run.mu.Unlock()
	return p, p.waitReady(ctx)
}

func (p *Process) waitReady(ctx context.Context) error {
	if p.ready == nil {
		return nil
	}
	return p.until(ctx, p.ready)
}

func (p *Process) start() error {
	cmd, err := p.host.command(context.Background(), p.argv)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", p.name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd.Env = append(cmd.Env, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if p.supervisor != nil {
		p.supervisor.Configure(cmd)
	}
	start := func() error { return p.host.do(cmd.Start) }
	if p.outside {
		start = cmd.Start
	}
	if err := start(); err != nil {
		return fmt.Errorf("starting %s on %s: %w", p.name, p.host.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.err = cmd, done, nil
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// CommandLine returns the command as a user would type it.
func (p *Process) CommandLine() string {
	return strings.Join(append([]string{filepath.Base(p.argv[0])}, p.argv[1:]...), " ")
}

// PID returns the process ID in the lab's PID namespace.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Err returns how the process ended, or nil if it runs or succeeded.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends a signal to the process and its children.
func (p *Process) Signal(signal unix.Signal) error {
	select {
	case <-p.Done():
		return os.ErrProcessDone
	default:
		return unix.Kill(-p.PID(), signal)
	}
}

// Kill sends SIGKILL and waits until the process is gone. It is not an error if the process has already ended.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-p.Done()
	return nil
}

// Stop ends the process as End does, and tells its supervisor that it stays stopped.
func (p *Process) Stop(ctx context.Context) error {
	err := p.End(ctx)
	if p.supervisor != nil {
		err = errors.Join(err, p.supervisor.Stop())
	}
	return err
}

// End sends SIGTERM and waits until the process has ended. It returns an error if the exit status is not 0, or if ctx ends
// first, in which case it kills the process.
func (p *Process) End(ctx context.Context) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending %s: %w", p.name, err)
	}
	select {
	case <-p.Done():
		if err := p.Err(); err != nil {
			return fmt.Errorf("%s failed: %w", p.name, err)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s did not end: %w", p.name, ctx.Err()), p.Kill())
	}
}

// Restart kills the process if it is running, starts it again, and returns when it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	return p.waitReady(ctx)
}

// Log returns the output of the process so far, across restarts.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.logPath())
	if err != nil {
		return fmt.Sprintf("no log of %s: %v", p.name, err)
	}
	return string(text)
}

func (p *Process) logPath() string {
	return filepath.Join(logDir, p.host.Name+"-"+p.name+".log")
}

// tail returns the end of the log, for messages.
func (p *Process) tail() string {
	text := p.Log()
	return text[max(0, len(text)-2000):]
}

// Process returns the most recent process with this name, or nil.
func (l *Lab) Process(name string) *Process {
	l.run.mu.Lock()
	defer l.run.mu.Unlock()
	for _, p := range slices.Backward(l.run.processes) {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Logs returns the ends of all logs, for the analysis of a failure.
func (l *Lab) Logs() string {
	l.run.mu.Lock()
	defer l.run.mu.Unlock()
	var text strings.Builder
	for _, p := range l.run.processes {
		fmt.Fprintf(&text, "--- %s on %s: ...%s\n", p.name, p.host.Name, p.tail())
	}
	return text.String()
}

// killAll kills every process, the most recent first.
func (r *runner) killAll() error { return r.killAllOf(nil) }

// killAllOf is like killAll for one host, or for all hosts if host is nil.
func (r *runner) killAllOf(host *Host) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	var rest []*Process
	for _, p := range slices.Backward(r.processes) {
		if host != nil && p.host != host {
			rest = append(rest, p)
			continue
		}
		errs = append(errs, p.Kill())
		if p.supervisor != nil {
			errs = append(errs, p.supervisor.Close())
		}
	}
	slices.Reverse(rest)
	r.processes = rest
	return errors.Join(errs...)
}

// Poll calls check every 50 ms until it returns nil. When ctx ends, Poll returns an error that includes the last one of
// check.
func Poll(ctx context.Context, check func(ctx context.Context) error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // else the end of ctx is what failed
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// until polls check until it succeeds. If the process ends first, it returns an error with the end of the log.
func (p *Process) until(ctx context.Context, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.Done():
			cancel(fmt.Errorf("%s ended", p.name))
		case <-ctx.Done():
		}
	}()
	if err := Poll(ctx, check); err != nil {
		return fmt.Errorf("waiting for %s on %s: %w (%w); its log ends:\n%s", p.name, p.host.Name, err, context.Cause(ctx), p.tail())
	}
	return nil
}
