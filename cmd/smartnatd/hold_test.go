// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestWhatSystemdKeptMayBeWrong checks that foreign sockets are closed, and sockets of ours that hold nothing are forgotten
// too. Connections are held regardless.
func TestWhatSystemdKeptMayBeWrong(t *testing.T) {
	testenv.RequireTool(t, "nft")
	const stored = "FDSTORE=1"
	for _, tc := range []struct {
		name  string
		kept  []string
		words []string
	}{
		{"nothing", nil, []string{stored}},
		{"a socket with another name", []string{"http"}, []string{stored}},
		{"a socket that holds nothing", []string{"smartnat-hold"}, []string{"FDSTOREREMOVE=1", stored}},
		{"several", []string{"smartnat-hold", "http", "smartnat-hold"}, []string{"FDSTOREREMOVE=1", stored}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			systemd := supervise(t)
			t.Setenv("NOTIFY_SOCKET", systemd.Socket)
			var kept []*os.File
			for _, name := range tc.kept {
				descriptor, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, os.NewFile(uintptr(descriptor), name))
			}
			log, _ := logtest.NewNullLogger()
			held := holdConnections(gateway.DefaultOwnership(), true, kept, log)
			if tables := output(t, "nft", "list", "tables"); tables != "table inet smartnat-hold\n" {
				t.Errorf("the tables are %q", tables)
			}
			for _, file := range kept {
				if err := file.Close(); !errors.Is(err, os.ErrClosed) {
					t.Errorf("%s was left open: closing it gave %v", file.Name(), err)
				}
			}
			awaitWord(t, systemd, stored, 1)
			var words []string
			for _, word := range systemd.Notifications() {
				if strings.HasPrefix(word, "FDSTORE") {
					words = append(words, word)
				}
			}
			if diff := cmp.Diff(tc.words, words); diff != "" {
				t.Errorf("said (-want +got):\n%s", diff)
			}
			if err := held.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
