// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func smartnatd(t *testing.T, stdin string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	exit = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return exit, out.String(), errs.String()
}

func TestRenderOfTheExample(t *testing.T) {
	exit, stdout, stderr := smartnatd(t, "", "render", "-f", "testdata/mapping.yaml", "-f", "testdata/service.yaml")
	if exit != 0 || stderr != "" {
		t.Fatalf("exit code %d, %s", exit, stderr)
	}
	const golden = "testdata/render.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(stdout), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), stdout); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRenderReadsAnyLayoutOfFilesAlike(t *testing.T) {
	mapping, service := readFile(t, "testdata/mapping.yaml"), readFile(t, "testdata/service.yaml")
	for _, plane := range []string{"iptables", "nftables"} {
		t.Run(plane, func(t *testing.T) { testLayouts(t, plane, mapping, service) })
	}
}

func testLayouts(t *testing.T, plane, mapping, service string) {
	_, want, _ := smartnatd(t, "", "render", "--dataplane", plane, "-f", "testdata/mapping.yaml", "-f", "testdata/service.yaml")
	if !strings.Contains(want, "10.96.0.20") {
		t.Errorf("the backend is missing in\n%s", want)
	}
	for _, test := range []struct {
		name, stdin string
		args        []string
	}{
		{"files the other way round", "", []string{"-f", "testdata/service.yaml", "-f", "testdata/mapping.yaml"}},
		{"documents on standard input", mapping + "---\n" + service, []string{"-f", "-"}},
		{"a folder", "", []string{"-f", "testdata"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			exit, got, stderr := smartnatd(t, test.stdin, append([]string{"render", "--dataplane", plane}, test.args...)...)
			if exit != 0 {
				t.Fatal(stderr)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRenderTellsWhatIsNotInEffect(t *testing.T) {
	exit, stdout, stderr := smartnatd(t, "", "render", "-f", "testdata/mapping.yaml")
	if exit != 0 || !strings.Contains(stdout, "*nat") {
		t.Errorf("exit code %d: a finding is no failure\n%s", exit, stdout)
	}
	if want := "spec.serviceName: Service default/echo-test-service does not exist"; !strings.Contains(stderr, want) {
		t.Errorf("standard error is %q, want %q in it", stderr, want)
	}
}

// TestRenderOfAMappingThatIsNotAccepted checks that render prints the rest, and fails.
func TestRenderOfAMappingThatIsNotAccepted(t *testing.T) {
	good := readFile(t, "testdata/mapping.yaml")
	invalid := regexp.MustCompile(`{name: .*}`).ReplaceAllString(good, "{name: wrong}")
	invalid = regexp.MustCompile(`port: \d+`).ReplaceAllString(invalid, "port: 70000")
	twice := regexp.MustCompile(`{name: .*}`).ReplaceAllString(good, "{name: zz}")
	for _, test := range []struct{ name, text, want string }{
		{"invalid", good + "\n---\n" + invalid, "smartnatd: not accepted: default/wrong\n"},
		{"in conflict", good + "\n---\n" + twice, "smartnatd: not accepted: default/zz\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			exit, stdout, stderr := smartnatd(t, test.text, "render", "-f", "-", "-f", "testdata/service.yaml")
			if exit != exitFailure || !strings.Contains(stdout, "-j DNAT") || !strings.HasSuffix(stderr, test.want) {
				t.Errorf("exit code %d, want %d, and %q behind\n%s\nand DNAT in\n%s", exit, exitFailure, test.want, stderr, stdout)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	exit, want, _ := smartnatd(t, "", "version")
	for _, args := range [][]string{{"version"}, {"--version"}, {"--version", "--config", "/nonexistent.yaml"}} {
		if code, got, stderr := smartnatd(t, "", args...); exit != 0 || code != 0 || got != want || stderr != "" || !strings.HasPrefix(got, "smartnatd development (go") {
			t.Errorf("%q: exit code %d, %q, %q", args, code, got, stderr)
		}
	}
}

func TestMistakesAreOneClearLineEach(t *testing.T) {
	config := func(text string) string {
		path := filepath.Join(t.TempDir(), "smartnat.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const files = "source: {files: {paths: [/nonexistent]}}\n"
	for _, test := range []struct {
		name string
		args []string
		exit int
		want []string
	}{
		{"missing config file", []string{"--config", "/nonexistent.yaml"}, exitUsage, []string{"/nonexistent.yaml", "no such file"}},
		{"an unknown key", []string{"--config", config(files + "uplink: []\n")}, exitUsage, []string{"uplink"}},
		{"two mistakes", []string{"--config", config(files + "resync: soon\nmasquerade: perhaps\n")}, exitUsage, []string{"resync", "masquerade"}},
		{"a certificate that cannot be read", []string{"--config", config("source: {relay: {servers: [\"https://192.0.2.1\"], caFile: /nonexistent.crt, tokenFile: /dev/null}}\n")},
			exitFailure, []string{"source.relay.caFile", "/nonexistent.crt"}},
		{"a token that is not there yet", []string{"--config", config("source: {relay: {servers: [\"https://192.0.2.1\"], tokenFile: /nonexistent}}\n")},
			exitFailure, []string{"source.relay.tokenFile"}},
		{"a token instead of its file", []string{"--config", config("source: {relay: {servers: [\"https://192.0.2.1\"], tokenFile: abc}}\n")},
			exitUsage, []string{"source.relay.tokenFile"}},
		{"objects that are not there yet", []string{"--config", config(files)}, exitFailure, []string{"source.files.paths[0]"}},
		{"render without files", []string{"render"}, exitUsage, []string{"-f FILE"}},
		{"render of a file that is missing", []string{"render", "-f", "/nonexistent.yaml"}, exitUsage, []string{"/nonexistent.yaml"}},
		{"render for a data plane that does not exist", []string{"render", "-f", "/nonexistent.yaml", "--dataplane", "nft"}, exitUsage,
			[]string{`"nft" must be iptables or nftables`}},
		{"enroll without a bundle", []string{"enroll"}, exitUsage, []string{"kubectl smartnat enroll"}},
		{"a bundle that is missing", []string{"enroll", "/nonexistent.yaml"}, exitFailure, []string{"reading the bundle", "/nonexistent.yaml"}},
		{"a bundle that is none", []string{"enroll", config(files)}, exitUsage, []string{"GatewayBundle"}},
		{"an unknown command", []string{"mapp"}, exitUsage, []string{"mapp"}},
		{"one argument too many", []string{"cleanup", "all"}, exitUsage, []string{"all"}},
		{"a flag without its value", []string{"render", "-f"}, exitUsage, []string{"-f"}},
		{"render of an incomplete Mapping", []string{"render", "-f", config("kind: Mapping\n")}, exitUsage, []string{"apiVersion is missing"}},
		{"cleanup with a config that is missing", []string{"cleanup", "--config", "/nonexistent.yaml"}, exitUsage, []string{"/nonexistent.yaml"}},
		{"check with a config that is missing", []string{"check", "--config", "/nonexistent.yaml"}, exitUsage, []string{"/nonexistent.yaml"}},
		{"status without a daemon", []string{"status", "--config", config(files + "runtimeDir: /nonexistent\n")}, exitFailure,
			[]string{"no smartnatd runs with this config", "/nonexistent/smartnatd.sock"}},
		{"status in a format that does not exist", []string{"status", "-o", "xml"}, exitUsage, []string{`--output "xml": want table, json or yaml`}},
		{"explain without a daemon", []string{"explain", "203.0.113.7", "198.51.100.10:80", "--config", config(files + "runtimeDir: /nonexistent\n")}, exitFailure,
			[]string{"no smartnatd runs with this config"}},
		{"explain without a destination", []string{"explain", "203.0.113.7"}, exitUsage, []string{"want a source and a destination"}},
		{"explain to a name", []string{"explain", "203.0.113.7", "example.org:80", "--config", config(files)}, exitUsage, []string{`destination "example.org:80"`}},
		{"explain by a protocol that has no ports", []string{"explain", "203.0.113.7", "198.51.100.10:80/icmp", "--config", config(files)}, exitUsage,
			[]string{`protocol "icmp": want tcp, udp or sctp`}},
		{"diff without a daemon", []string{"diff", "--config", config(files + "runtimeDir: /nonexistent\n")}, exitTrouble, []string{"no smartnatd runs with this config"}},
		{"diff with a config that is missing", []string{"diff", "--config", "/nonexistent.yaml"}, exitTrouble, []string{"/nonexistent.yaml"}},
		{"diff of a file that is missing", []string{"diff", "-f", "/nonexistent.yaml", "--config", config(files)}, exitTrouble, []string{"/nonexistent.yaml"}},
		{"diff of an incomplete Mapping", []string{"diff", "-f", config("kind: Mapping\n"), "--config", config(files)}, exitTrouble, []string{"apiVersion is missing"}},
		{"diff in a format that does not exist", []string{"diff", "-o", "xml"}, exitTrouble, []string{`--output "xml": want table, json or yaml`}},
		{"diff with an argument", []string{"diff", "web"}, exitTrouble, []string{"web"}},
		{"connections without a daemon", []string{"connections", "--config", config(files + "runtimeDir: /nonexistent\n")}, exitFailure,
			[]string{"no smartnatd runs with this config"}},
		{"connections of a Mapping without a namespace", []string{"connections", "db"}, exitUsage, []string{`"db": want one Mapping as NAMESPACE/NAME`}},
		{"connections of two Mappings", []string{"connections", "a/b", "c/d"}, exitUsage, []string{`"a/b c/d": want one Mapping`}},
		{"connections without any", []string{"connections", "--limit", "0"}, exitUsage, []string{"--limit 0: want a number from 1 to 10000"}},
		{"connections with a limit in words", []string{"connections", "--limit", "all"}, exitUsage, []string{`"all"`}},
		{"who without a daemon", []string{"who", "10.10.0.2:41023", "--config", config(files + "runtimeDir: /nonexistent\n")}, exitFailure,
			[]string{"no smartnatd runs with this config"}},
		{"who without an address", []string{"who"}, exitUsage, []string{"want one address as a pod saw it"}},
		{"who by an address without a port", []string{"who", "10.10.0.2"}, exitUsage, []string{`"10.10.0.2": want ADDRESS:PORT`}},
		{"who by a protocol that has no ports", []string{"who", "10.10.0.2:1/icmp"}, exitUsage, []string{`protocol "icmp": want tcp, udp or sctp`}},
		{"who by no protocol", []string{"who", "10.10.0.2:1/"}, exitUsage, []string{`protocol "": want tcp, udp or sctp`}},
		{"who at a time of no form", []string{"who", "10.10.0.2:1", "--at", "yesterday"}, exitUsage, []string{`--at "yesterday": want a time in the past`}},
		{"who in the future", []string{"who", "10.10.0.2:1", "--at", "2200-01-01T00:00:00Z"}, exitUsage, []string{"want a time in the past"}},
		{"check in a format that does not exist", []string{"check", "-o", "xml"}, exitUsage, []string{`--output "xml": want table, json or yaml`}},
		{"cleanup in a format that does not exist", []string{"cleanup", "-o", "text"}, exitUsage, []string{`--output "text": want table, json or yaml`}},
		{"an escape sequence", []string{"\x1b[2J"}, exitUsage, []string{"[2J"}},
		{"an unknown flag", []string{"--verbose"}, exitUsage, []string{"--verbose"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			exit, _, stderr := smartnatd(t, "", test.args...)
			if exit != test.exit {
				t.Errorf("exit code %d, want %d", exit, test.exit)
			}
			if strings.Contains(stderr, "\x1b") {
				t.Errorf("a terminal obeys %q", stderr)
			}
			for _, want := range test.want {
				if n := linesWith(stderr, want); n != 1 {
					t.Errorf("%d lines name %q, want 1:\n%s", n, want, stderr)
				}
			}
		})
	}
}

func TestOnlyOneRunsOnAHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := lockInstance(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockInstance(dir); err == nil || !strings.Contains(err.Error(), "already running (pid ") {
		t.Errorf("second lock: %v, want an error", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := lockInstance(dir)
	if err != nil {
		t.Fatalf("after the first one closed: %v", err)
	}
	_ = second.Close()
}

// TestNoStrangerHoldsTheLock checks that other users can neither read the file nor create it: either would let them lock it.
func TestNoStrangerHoldsTheLock(t *testing.T) {
	mode := func(path string) os.FileMode {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	for _, test := range []struct {
		name string
		// there is the mode of the folder before the start, 0 if it does not exist; other is a file in it.
		there os.FileMode
		other string
		want  os.FileMode
		err   string
	}{
		{name: "none", want: 0o700},
		{name: "closed", there: 0o700, want: 0o700},
		{name: "of an earlier version", there: 0o755, want: 0o700},
		{name: "with our own files", there: 0o755, other: "sysctls.json", want: 0o700},
		{name: "of a group", there: 0o770, want: 0o700},
		{name: "that a group may enter", there: 0o710, want: 0o710},
		{name: "that a group may list", there: 0o750, want: 0o700},
		{name: "that anyone may enter", there: 0o711, want: 0o700},
		{name: "with files of others", there: 0o755, other: "utmp", want: 0o755},
		{name: "world-writable", there: 0o777, err: "is writable by every user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			file := filepath.Join(dir, "smartnatd.pid")
			if test.there != 0 {
				if err := errors.Join(os.Mkdir(dir, test.there), os.Chmod(dir, test.there), os.WriteFile(file, nil, 0o644), os.Chmod(file, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if test.other != "" {
				if err := os.WriteFile(filepath.Join(dir, test.other), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			lock, err := lockInstance(dir)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Close()
			if got := mode(dir); got != test.want {
				t.Errorf("the folder has mode %o, want %o", got, test.want)
			}
			if got := mode(file); got != 0o600 {
				t.Errorf("the file has mode %o, want 600", got)
			}
		})
	}
}

func linesWith(text, part string) int {
	n := 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
