// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/config"
)

// TestARefusedConfigDoesNotEndRenewals loads a config that is refused then, one that is taken, and the same again.
func TestARefusedConfigDoesNotEndRenewals(t *testing.T) {
	log, _ := test.NewNullLogger()
	all := &tokens{ctx: t.Context(), log: log}
	var ended []string
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("opaque"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(state string) config.Config {
		cfg := config.Default()
		cfg.StateDir = filepath.Join(t.TempDir(), state)
		cfg.Source.Relay = &config.Relay{Servers: []string{"https://192.0.2.1:8443"}, TokenFile: token}
		return all.load(cfg)
	}
	keep := func(cfg config.Config, state string) {
		all.keep(cfg)
		if all.stop == nil {
			t.Fatal("no renewals")
		}
		stop := all.stop
		all.stop = context.CancelFunc(func() { ended = append(ended, state); stop() })
	}
	keep(load("one"), "one")
	load("refused")
	if len(ended) > 0 || filepath.Base(filepath.Dir(all.files.Kept)) != "one" {
		t.Errorf("ended %q, renews %s", ended, all.files.Kept)
	}
	two := load("two")
	keep(two, "two")
	all.keep(two)
	if len(ended) != 1 || ended[0] != "one" || filepath.Base(filepath.Dir(all.files.Kept)) != "two" {
		t.Errorf("ended %q, renews %s", ended, all.files.Kept)
	}
}
