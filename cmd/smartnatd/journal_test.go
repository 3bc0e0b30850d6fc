// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStderrIsTheJournal checks that the program detects the journal itself.
func TestStderrIsTheJournal(t *testing.T) {
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, elsewhere := range []uint64{0, 1} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		var stat unix.Stat_t
		if err := unix.Fstat(int(write.Fd()), &stat); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), executable, "--config", "/nonexistent.yaml")
		command.Env = append(os.Environ(), asProgram+"=1", fmt.Sprintf("JOURNAL_STREAM=%d:%d", stat.Dev, stat.Ino+elsewhere))
		command.Stderr = write
		var exit *exec.ExitError
		if err := command.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
			t.Errorf("ended with %v", err)
		}
		said, err := io.ReadAll(closing{read, write})
		if want := []string{"<3>smartnatd: ", "smartnatd: "}[elsewhere]; err != nil || !bytes.HasPrefix(said, []byte(want)) {
			t.Errorf("error %v, said %q, want it to begin with %q", err, said, want)
		}
	}
}

// closing closes the write end before it reads.
type closing struct{ read, write *os.File }

func (c closing) Read(b []byte) (int, error) {
	_ = c.write.Close() // fails the second time
	return c.read.Read(b)
}
