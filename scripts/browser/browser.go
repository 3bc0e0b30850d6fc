// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package browser drives a tab of a real Chromium, over the Chrome DevTools Protocol on two pipes, for tests and pictures.
package browser

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// patience bounds each answer, so that a page that never answers is an error.
const patience = 2 * time.Minute

// Tab is a tab of a Chromium.
type Tab struct {
	// Complaints are what pages wrote to the console, and their exceptions.
	Complaints []string

	program *exec.Cmd
	log     bytes.Buffer
	to      *os.File
	from    *os.File
	answers *bufio.Reader
	session string
	asked   int
}

// Program returns the name of the installed program, or "".
func Program() string {
	for _, name := range []string{"chromium", "google-chrome"} {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	return ""
}

// Start starts Chromium, by a command in front of it if there is one, with its own files in a folder.
func Start(folder string, front ...string) (*Tab, error) {
	theirIn, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	from, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	defer theirOut.Close()
	argv := append(slices.Clone(front), Program(), "--remote-debugging-pipe", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir="+folder, "about:blank")
	b := &Tab{program: exec.Command(argv[0], argv[1:]...), to: to, from: from, answers: bufio.NewReader(from)}
	b.program.Stderr = &b.log
	b.program.ExtraFiles = []*os.File{theirIn, theirOut} // become descriptors 3 and 4
	b.program.WaitDelay = 10 * time.Second
	if err := b.program.Start(); err != nil {
		return nil, fmt.Errorf("starting Chromium: %w", errors.Join(err, to.Close(), from.Close()))
	}
	if err := b.attach(); err != nil {
		return nil, fmt.Errorf("starting Chromium: %w\n%s", errors.Join(err, b.Close()), b.Log())
	}
	return b, nil
}

func (b *Tab) attach() error {
	var target struct{ TargetID string }
	if err := b.Call("Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return err
	}
	var attached struct{ SessionID string }
	if err := b.Call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached); err != nil {
		return err
	}
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		if err := b.Call(domain+".enable", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// Close ends Chromium.
func (b *Tab) Close() error {
	b.session = ""
	err := b.Call("Browser.close", nil, nil)
	if err != nil {
		err = errors.Join(err, b.program.Process.Kill())
	}
	_ = b.program.Wait()
	return errors.Join(err, b.to.Close(), b.from.Close())
}

// Log returns what Chromium wrote. It may be called after Close.
func (b *Tab) Log() string { return b.log.String() }

// message is an answer, or an event.
type message struct {
	ID     int
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Call sends a command and decodes its result.
func (b *Tab) Call(method string, params map[string]any, result any) error {
	b.asked++
	if params == nil {
		params = map[string]any{}
	}
	command := map[string]any{"id": b.asked, "method": method, "params": params}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err == nil {
		_, err = b.to.Write(append(text, 0))
	}
	if err == nil {
		err = b.from.SetReadDeadline(time.Now().Add(patience))
	}
	for err == nil {
		var m message
		if m, err = b.next(); err != nil {
			break
		}
		switch {
		case m.Method == "Runtime.exceptionThrown", m.Method == "Runtime.consoleAPICalled", m.Method == "Log.entryAdded":
			b.Complaints = append(b.Complaints, string(m.Params))
		case m.ID != b.asked:
		case m.Error != nil:
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		case result == nil:
			return nil
		default:
			return json.Unmarshal(m.Result, result)
		}
	}
	return fmt.Errorf("%s: %w", method, err)
}

func (b *Tab) next() (m message, err error) {
	text, err := b.answers.ReadBytes(0)
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(text[:len(text)-1], &m)
}

// Evaluate returns the value of an expression in the page. It waits for a promise.
func Evaluate[T any](b *Tab, expression string) (T, error) {
	var result struct {
		Result           struct{ Value T }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	err := b.Call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &result)
	if err == nil && result.ExceptionDetails != nil {
		err = fmt.Errorf("%s: %s", expression, result.ExceptionDetails.Exception.Description)
	}
	return result.Result.Value, err
}

// Await waits until an expression is true.
func (b *Tab) Await(expression string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if done, err := Evaluate[bool](b, expression); done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			shown, err := Evaluate[string](b, "document.body.innerText")
			return errors.Join(err, fmt.Errorf("not within %s: %s; the page shows:\n%s", patience, expression, shown))
		}
	}
}

// Open shows a page as Show does.
func (b *Tab) Open(url string, width int, scheme string) error {
	return errors.Join(
		b.Show(width, scheme),
		b.Call("Page.navigate", map[string]any{"url": url}, nil),
		b.Await("document.readyState == 'complete'"),
	)
}

// Show shows the current page in a window of a width, with the color scheme "light" or "dark".
func (b *Tab) Show(width int, scheme string) error {
	return errors.Join(
		b.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}, nil),
		b.Call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil),
	)
}

// Screenshot returns a picture of the page as png or webp: its whole height, up to a limit.
func (b *Tab) Screenshot(format string) ([]byte, error) {
	const limit = 2000
	size, err := Evaluate[[]float64](b, "[innerWidth, document.documentElement.scrollHeight]")
	if err != nil {
		return nil, err
	}
	var picture struct{ Data string }
	if err := b.Call("Page.captureScreenshot", map[string]any{
		"format": format, "quality": 70, "captureBeyondViewport": true,
		"clip": map[string]any{"x": 0, "y": 0, "width": size[0], "height": min(size[1], limit), "scale": 1},
	}, &picture); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(picture.Data)
}

// Fill enters a value as a user does.
func (b *Tab) Fill(id, value string) error {
	_, err := Evaluate[bool](b, fmt.Sprintf(`(e => { e.focus(); e.value = %q; e.dispatchEvent(new Event("input", {bubbles: true})); e.dispatchEvent(new Event("change", {bubbles: true})); return true })(document.getElementById(%q))`, value, id))
	return err
}
