// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// process is a running smartnatd.
type process struct {
	*exec.Cmd
	log lines
}

func startProgram(t *testing.T, systemd *testenv.Supervisor, configFile string, env ...string) *process {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(executable, "--config", configFile)}
	p.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.Stdout, p.Stderr = &p.log, &p.log
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	systemd.Configure(p.Cmd)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill()
		if t.Failed() {
			t.Logf("smartnatd logged:\n%s", &p.log)
		}
	})
	return p
}

// awaitLog waits until a number of lines of the log have a text, and no more. The log lags behind the program.
func (p *process) awaitLog(t *testing.T, text string, lines int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); linesWith(p.log.String(), text) < lines; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %d lines of the log have %q after 30 s:\n%s", lines, text, p.log.String())
		}
	}
	if n := linesWith(p.log.String(), text); n != lines {
		t.Errorf("%d lines of the log have %q, want %d", n, text, lines)
	}
}

// end stops the process as the first half of `systemctl restart` does.
func (p *process) end(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // reports the kill
}
