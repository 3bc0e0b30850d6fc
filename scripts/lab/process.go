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

// runner knows every process that the lab started, so that it can end them.
type runner struct {
	mu        sync.Mutex
	processes []*Process
}

// Process is a program that stays. What it prints goes to a log file.
type Process struct {
	command
	host *Host

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// command says what runs.
type command struct {
	name string // which names the log
	argv []string
	env  []string
	// ready returns nil once the program does its work; no ready means at once.
	ready func(ctx context.Context) error
	// supervisor is told of each start and of a stop, and closed with the lab; nil where there is none.
	supervisor *testenv.Supervisor
}

// Start starts a program on the host under a name of the caller's choice, which names its log.
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
	defer func() { _ = log.Close() }() // the process holds its own
	cmd.Env = append(cmd.Env, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if p.supervisor != nil {
		p.supervisor.Prepare(cmd)
	}
	if err := p.host.do(cmd.Start); err != nil {
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

// CommandLine is what was started, as a person would type it.
func (p *Process) CommandLine() string {
	return strings.Join(append([]string{filepath.Base(p.argv[0])}, p.argv[1:]...), " ")
}

// PID is its process number, as the lab counts.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Err says how the process ended; nil while it runs, and when it ended well.
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

// Kill ends the process as kill -9 does, and waits until it is gone. It is no error when it already was.
func (p *Process) Kill() error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-p.Done()
	return nil
}

// Stop ends the process as End does, for good as far as its supervisor knows.
func (p *Process) Stop(ctx context.Context) error {
	err := p.End(ctx)
	if p.supervisor != nil {
		err = errors.Join(err, p.supervisor.Stop())
	}
	return err
}

// End asks the process to end and waits until it has; one that does not end by the end of ctx is killed, and that is
// an error, as is an exit status that is not 0.
func (p *Process) End(ctx context.Context) error {
	if err := p.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending %s: %w", p.name, err)
	}
	select {
	case <-p.Done():
		if err := p.Err(); err != nil {
			return fmt.Errorf("%s ended badly: %w", p.name, err)
		}
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s does not end: %w", p.name, ctx.Err()), p.Kill())
	}
}

// Restart starts the process again, killing it if it still runs, and returns when it does its work.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	return p.waitReady(ctx)
}

// Log is what the process printed so far, over all its restarts.
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

// tail is the end of the log, for messages.
func (p *Process) tail() string {
	text := p.Log()
	return text[max(0, len(text)-2000):]
}

// Process is the youngest process of that name; nil when there is none.
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

// Logs are the ends of the logs of all processes, for whoever looks for the cause of a failure.
func (l *Lab) Logs() string {
	l.run.mu.Lock()
	defer l.run.mu.Unlock()
	var text strings.Builder
	for _, p := range l.run.processes {
		fmt.Fprintf(&text, "--- %s on %s: ...%s\n", p.name, p.host.Name, p.tail())
	}
	return text.String()
}

// killAll ends every process, the youngest first.
func (r *runner) killAll() error { return r.killAllOf(nil) }

// killAllOf is killAll for one host; for all of them when it is nil.
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

// Poll calls check every 50 ms until it returns nil; when ctx ends it returns check's last error.
func Poll(ctx context.Context, check func(ctx context.Context) error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// until polls check until it succeeds or the process ends, which is an error that shows its log.
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
