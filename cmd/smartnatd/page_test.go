// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"net/http"
	"os"
	"testing"
)

// TestPageStaysOnTheHost serves metrics on an address of the inside. The page and its answers are on loopback alone.
func TestPageStaysOnTheHost(t *testing.T) {
	configFile := newHost(t)
	file, err := os.OpenFile(configFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("metrics: {address: '10.10.0.2:9470'}\n"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	for _, path := range []string{"/", "/api/status", "/api/explain?source=10.0.0.5&destination=10.237.94.10:8080&protocol=tcp"} {
		if code, body := getInside(t, path); code != http.StatusOK {
			t.Errorf("%s on loopback: %d %s", path, code, body)
		}
		if code, body := getAt(t, "10.10.0.2:9470", path); code != http.StatusForbidden {
			t.Errorf("%s on an address of the inside: %d %s", path, code, body)
		}
	}
	if code, body := getAt(t, "10.10.0.2:9470", "/metrics"); code != http.StatusOK {
		t.Errorf("metrics on an address of the inside: %d %s", code, body)
	}
	program.end(t)
}
