// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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
		all.stop = func() { ended = append(ended, state); stop() }
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

// TestARefusedConfigLeavesTheToken loads the config of another gateway, which is refused, and then takes it.
func TestARefusedConfigLeavesTheToken(t *testing.T) {
	log, _ := test.NewNullLogger()
	all := &tokens{ctx: t.Context(), log: log}
	dir := t.TempDir()
	begins := time.Now()
	token := func(gateway string) string {
		claims := fmt.Sprintf(`{"iss":"https://cluster-1","sub":"system:serviceaccount:smartnat:%s","iat":%d,"exp":%d}`,
			gateway, begins.Unix(), begins.Add(time.Hour).Unix())
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	load := func(gateway string) config.Config {
		cfg := config.Default()
		cfg.StateDir = dir
		cfg.Source.Relay = &config.Relay{Servers: []string{"https://192.0.2.1:8443"}, TokenFile: filepath.Join(t.TempDir(), gateway)}
		if err := os.WriteFile(cfg.Source.Relay.TokenFile, []byte(token(gateway)), 0o600); err != nil {
			t.Fatal(err)
		}
		return all.load(cfg)
	}
	kept := filepath.Join(dir, "token")
	expect := func(when, gateway string) {
		t.Helper()
		if text, err := os.ReadFile(kept); err != nil || string(text) != token(gateway) {
			t.Errorf("%s: %q is kept, %v, want the token of %s", when, text, err, gateway)
		}
	}
	all.keep(load("edge-1"))
	expect("at the start", "edge-1")
	two := load("edge-2") // and no keep: refused
	expect("after a refused reload", "edge-1")
	if two.Source.Relay.TokenFile != kept {
		t.Errorf("uses %s, want %s", two.Source.Relay.TokenFile, kept)
	}
	all.keep(two)
	defer all.stop()
	expect("once it is accepted", "edge-2")
}
