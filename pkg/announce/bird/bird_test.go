// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package bird

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestConfigure covers the replies of BIRD to the command, and what is none.
func TestConfigure(t *testing.T) {
	const greeting = "0001 BIRD 2.0.12 ready.\n"
	for name, test := range map[string]struct{ answer, want string }{
		"done":            {greeting + "0002-Reading configuration from /etc/bird/bird.conf\n0003 Reconfigured\n", ""},
		"begun":           {greeting + "0002-Reading configuration\n0004 Reconfiguration in progress\n", ""},
		"several lines":   {"0001-BIRD\n more\n0001 ready\n0002-Reading\n more\n0003 Reconfigured\n", ""},
		"a syntax error":  {greeting + "0002-Reading configuration\n8002 bird.conf:3:1 syntax error\n", `BIRD does not take its config: "bird.conf:3:1 syntax error"`},
		"no BIRD":         {"HTTP/1.1 400 Bad Request\n", `BIRD answers "HTTP/1.1 400 Bad Request", which is no reply`},
		"too short":       {"0001\n", `BIRD answers "0001", which is no reply`},
		"ends":            {greeting + "0002-Reading configuration\n", "waiting for BIRD: it closed its socket"},
		"a terminal's":    {greeting + "8002 \x1b[2J\n", `BIRD does not take its config: "\x1b[2J"`},
		"ends at once":    {"", "waiting for BIRD: it closed its socket"},
		"an endless line": {strings.Repeat("x", bufio.MaxScanTokenSize+1), "waiting for BIRD: bufio.Scanner: token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "ctl")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			asked := make(chan string, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				greeting, rest, _ := strings.Cut(test.answer, "ready\n")
				if rest == "" {
					greeting, rest, _ = strings.Cut(test.answer, "ready.\n")
				}
				if rest == "" {
					_, _ = conn.Write([]byte(test.answer))
					return
				}
				_, _ = conn.Write([]byte(greeting + "ready\n"))
				line, _ := bufio.NewReader(conn).ReadString('\n')
				asked <- line
				_, _ = conn.Write([]byte(rest))
			}()
			err = Configure(t.Context(), socket)
			if (err != nil) != (test.want != "") || err != nil && err.Error() != test.want {
				t.Errorf("%v, want %q", err, test.want)
			}
			if test.want == "" {
				if line := <-asked; line != "configure\n" {
					t.Errorf("asked %q", line)
				}
			}
		})
	}
	if err := Configure(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil || !strings.HasPrefix(err.Error(), "asking BIRD to read its config: dial unix ") {
		t.Errorf("no socket: %v", err)
	}
}
