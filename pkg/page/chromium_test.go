// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package page

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/testenv"
	browsing "github.com/smartnat/smartnat/scripts/browser"
)

// browser is a tab of a real Chromium whose errors end the test.
type browser struct {
	t *testing.T
	*browsing.Tab
}

// startBrowser starts Chromium in the network namespace of the tests.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	testenv.RequireKernel(t)
	if browsing.Program() == "" {
		if release, err := os.ReadFile("/etc/os-release"); err == nil && strings.Contains("\n"+string(release), "\nID=ubuntu\n") {
			t.Skip("SKIPPED: Ubuntu has no package of chromium, and google-chrome is not installed")
		}
		testenv.RequireTool(t, "chromium")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tab, err := browsing.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("Chromium:\n%s", tab.Log())
		}
	})
	return &browser{t: t, Tab: tab}
}

func (b *browser) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// evaluate returns the value of an expression in the page.
func evaluate[T any](b *browser, expression string) T {
	b.t.Helper()
	value, err := browsing.Evaluate[T](b.Tab, expression)
	b.check(err)
	return value
}

// await waits until an expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	b.check(b.Await(expression))
}

// open shows a page with a width of the window, dark or light, and waits for the Mappings.
func (b *browser) open(url string, width int, scheme string) {
	b.t.Helper()
	b.check(b.Open(url, width, scheme))
	b.await("document.querySelector('#rows')?.children.length > 0")
}

// screenshot returns a picture of the page.
func (b *browser) screenshot(format string) []byte {
	b.t.Helper()
	picture, err := b.Screenshot(format)
	b.check(err)
	return picture
}

// fill enters a value as a user does.
func (b *browser) fill(id, value string) {
	b.t.Helper()
	b.check(b.Fill(id, value))
}
