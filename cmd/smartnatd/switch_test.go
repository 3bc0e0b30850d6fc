// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// newRoutedHost is newHost between a client and the node behind the ClusterIP, whose Mapping limits the sources to a set.
func newRoutedHost(t *testing.T, more string) (configFile string) {
	t.Helper()
	configFile = newHost(t)
	dir := filepath.Dir(configFile)
	for name, link := range map[string]string{"client": "peer1", "node": "peer0"} {
		output(t, "ip", "netns", "add", name)
		t.Cleanup(func() { output(t, "ip", "netns", "del", name) })
		output(t, "ip", "link", "set", link, "netns", name)
		for _, args := range map[string][]string{
			"client": {"addr add 10.237.94.50/24 dev peer1"},
			"node":   {"addr add 10.10.0.11/24 dev peer0", "addr add 10.96.0.20/32 dev lo"},
		}[name] {
			output(t, "ip", append([]string{"-n", name}, strings.Fields(args)...)...)
		}
		output(t, "ip", "-n", name, "link", "set", "lo", "up")
		output(t, "ip", "-n", name, "link", "set", link, "up")
	}
	answer(t, "node")
	var sources strings.Builder
	for i := range 100 {
		fmt.Fprintf(&sources, "192.0.2.%d/32, ", 2*i)
	}
	mapping := "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: echo}\nspec:\n" +
		"  addresses: [10.237.94.10]\n  allowedSources: [" + sources.String() + "10.237.94.0/24]\n  serviceName: echo-test-service\n  mode: service\n" +
		"  ports: [{port: 8080}, {port: 8080, protocol: udp}]\n"
	write(t, filepath.Join(dir, "mapping.yaml"), mapping)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	write(t, configFile, strings.Replace(readFile(t, configFile), here+"/testdata/mapping.yaml", dir+"/mapping.yaml", 1)+more)
	return configFile
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer makes a host return every datagram and every line.
func answer(t *testing.T, name string) {
	t.Helper()
	testenv.In(t, name, func() error {
		packets, err := net.ListenPacket("udp4", "10.96.0.20:8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { packets.Close() })
		go func() {
			buffer := make([]byte, 100)
			for {
				n, from, err := packets.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(buffer[:n], from)
			}
		}()
		listener, err := net.Listen("tcp4", "10.96.0.20:8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for lines := bufio.NewScanner(conn); lines.Scan(); {
						fmt.Fprintln(conn, lines.Text())
					}
				}()
			}
		}()
		return nil
	})
}

// connection is one from the client through the Mapping.
func connection(protocol string) (conn net.Conn, err error) {
	err = testenv.InNetNS("client", func() error {
		conn, err = dial(protocol)
		return err
	})
	return conn, err
}

func dial(protocol string) (net.Conn, error) {
	return net.DialTimeout(protocol, "10.237.94.10:8080", 10*time.Second)
}

// exchange sends a line and expects it back. A datagram that is lost is an error.
func exchange(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, "echo"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "echo\n" {
		err = fmt.Errorf("%q came back", line)
	}
	return err
}

// traffic opens connections one after the other until stop, and has two that were established at its start.
type traffic struct {
	established []net.Conn
	stop        chan struct{}
	ended       <-chan struct{}
	count       int
	err         error
}

func startTraffic(t *testing.T) *traffic {
	t.Helper()
	flow := &traffic{stop: make(chan struct{})}
	for _, protocol := range []string{"tcp4", "udp4"} {
		conn, err := connection(protocol)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		flow.established = append(flow.established, conn)
	}
	flow.check(t)
	flow.ended = testenv.Go(t, func() { flow.err = testenv.InNetNS("client", flow.connect) })
	return flow
}

// connect stays on its thread, because a new one for each connection would leave most moments without a first packet.
func (f *traffic) connect() error {
	for stopped := false; !stopped; {
		select {
		case <-f.stop:
			stopped = true // after one more round
		default:
		}
		for _, protocol := range []string{"tcp4", "udp4"} {
			conn, err := dial(protocol)
			if err == nil {
				err = errors.Join(exchange(conn), conn.Close())
			}
			if err != nil {
				return err
			}
			f.count++
		}
	}
	return nil
}

func (f *traffic) check(t *testing.T) {
	t.Helper()
	for _, conn := range f.established {
		if err := exchange(conn); err != nil {
			t.Errorf("an established connection: %v", err)
		}
	}
}

func (f *traffic) end(t *testing.T) {
	t.Helper()
	close(f.stop)
	<-f.ended
	if f.err != nil {
		t.Errorf("new connection %d: %v", f.count, f.err)
	}
	t.Logf("%d new connections", f.count)
}

// ours returns what each data plane holds of ours.
func ours(t *testing.T) map[string]bool {
	t.Helper()
	holds := func(command, word string) bool {
		out, err := exec.Command("sh", "-c", command).Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return strings.Contains(string(out), word)
	}
	return map[string]bool{
		"nf_tables": holds("iptables-nft-save 2>/dev/null; ip6tables-nft-save 2>/dev/null", "SMARTNAT"),
		"legacy":    holds("iptables-legacy-save; ip6tables-legacy-save", "SMARTNAT"),
		"sets":      holds("ipset -n list", "smartnat-"),
		"nftables":  holds("nft list tables", "smartnat\n"),
	}
}

// TestDataplanesChangeWithoutAGap changes the key of the data plane by reloads, in both directions. Connections stay, new ones
// are possible at every moment, nothing stays behind, and rules of other programs stay.
func TestDataplanesChangeWithoutAGap(t *testing.T) {
	for _, variant := range []string{"nf_tables", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			testenv.RequireTool(t, "ipset")
			configFile := newRoutedHost(t, "iptables: {variant: "+variant+"}\n")
			text := readFile(t, configFile)
			iptables := map[string]string{"nf_tables": "iptables-nft", "legacy": "iptables-legacy"}[variant]
			output(t, iptables, "-A", "INPUT", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT")
			output(t, "ipset", "create", "foreign", "hash:net")
			nft(t, "table inet foreign { chain input { type filter hook input priority 10; tcp dport 9998 accept; }; }")
			inIPTables := map[string]bool{"nf_tables": variant == "nf_tables", "legacy": variant == "legacy", "sets": true, "nftables": false}
			inNFTables := map[string]bool{"nf_tables": false, "legacy": false, "sets": false, "nftables": true}

			write(t, configFile, text+"dataplane: iptables\n")
			systemd := supervise(t)
			program := startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 1)
			if diff := cmp.Diff(inIPTables, ours(t)); diff != "" {
				t.Errorf("after the start (-want +got):\n%s", diff)
			}
			flow := startTraffic(t)
			for i, next := range []struct {
				dataplane string
				want      map[string]bool
			}{{"nftables", inNFTables}, {"iptables", inIPTables}, {"nftables", inNFTables}, {"auto", inIPTables}} {
				write(t, configFile, text+"dataplane: "+next.dataplane+"\n")
				if err := program.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				awaitWord(t, systemd, "READY=1", i+2)
				if diff := cmp.Diff(next.want, ours(t)); diff != "" {
					t.Errorf("after a change to %s (-want +got):\n%s", next.dataplane, diff)
				}
				flow.check(t)
			}
			flow.end(t)
			program.end(t)

			// A restart with another value takes over what the last process left.
			write(t, configFile, text+"dataplane: nftables\n")
			program = startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 6)
			if diff := cmp.Diff(inNFTables, ours(t)); diff != "" {
				t.Errorf("after a restart (-want +got):\n%s", diff)
			}
			flow.check(t)
			program.end(t)
			write(t, configFile, text+"dataplane: iptables\n")
			if exit, stdout, stderr := smartnatd(t, "", "cleanup", "--config", configFile); exit != 0 || !strings.HasPrefix(stdout, "removed: ") {
				t.Errorf("cleanup: exit code %d, %s%s", exit, stdout, stderr)
			}
			none := map[string]bool{"nf_tables": false, "legacy": false, "sets": false, "nftables": false}
			if diff := cmp.Diff(none, ours(t)); diff != "" {
				t.Errorf("after cleanup (-want +got):\n%s", diff)
			}
			for command, want := range map[string]string{
				iptables + " -S INPUT": "-A INPUT -p tcp -m tcp --dport 9999 -j ACCEPT", "ipset -n list": "foreign", "nft list table inet foreign": "tcp dport 9998 accept",
			} {
				if got := output(t, "sh", "-c", command); !strings.Contains(got, want) {
					t.Errorf("%s: a foreign rule is gone:\n%s", command, got)
				}
			}
		})
	}
}

// TestDockersForwardPolicy starts with nftables on a host with the rules of Docker. They drop what a Mapping forwards, until the
// command that check names has run. With iptables, nothing needs to be done.
func TestDockersForwardPolicy(t *testing.T) {
	layout, err := filepath.Abs("../../scripts/lab/e2e/testdata/docker.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"nf_tables", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			iptables := map[string]string{"nf_tables": "iptables-nft", "legacy": "iptables-legacy"}[variant]
			configFile := newRoutedHost(t, "iptables: {variant: "+variant+"}\ndataplane: nftables\n")
			output(t, iptables+"-restore", layout)
			systemd := supervise(t)
			program := startProgram(t, systemd, configFile)
			awaitWord(t, systemd, "READY=1", 1)
			udp, err := connection("udp4")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { udp.Close() })
			dropped := func() int {
				policy := output(t, iptables, "-nvxL", "FORWARD")
				var packets int
				if _, err := fmt.Sscanf(policy, "Chain FORWARD (policy DROP %d packets", &packets); err != nil {
					t.Fatalf("%v: %s", err, policy)
				}
				return packets
			}
			if _, err := fmt.Fprintln(udp, "echo"); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); dropped() == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("Docker's policy drops nothing: this test proves nothing")
				}
			}
			_, stdout, _ := smartnatd(t, "", "check", "--config", configFile)
			_, mend, found := strings.Cut(stdout, "does not count there: "+iptables+" ")
			mend, _, more := strings.Cut(mend, ";")
			if !found || !more {
				t.Fatalf("no command in\n%s", stdout)
			}
			output(t, iptables, strings.Fields(mend)...)
			startTraffic(t).end(t)
			if _, stdout, _ := smartnatd(t, "", "check", "--config", configFile); strings.Contains(stdout, "does not count there") {
				t.Errorf("mended, but check says\n%s", stdout)
			}
			output(t, iptables, strings.Fields(strings.Replace(mend, "-I", "-D", 1))...)
			write(t, configFile, strings.Replace(readFile(t, configFile), "dataplane: nftables", "dataplane: iptables", 1))
			if err := program.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			awaitWord(t, systemd, "READY=1", 2)
			startTraffic(t).end(t)
			program.end(t)
		})
	}
}

// TestTablesWithAnOwnerNeedNoHold flushes all rules under the nftables data plane. Where its tables have an owner, they stay
// without the table smartnat-hold, and the socket that systemd kept for iptables is released.
func TestTablesWithAnOwnerNeedNoHold(t *testing.T) {
	configFile := newRoutedHost(t, "dataplane: iptables\n")
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 1)
	program.end(t)
	if tables := output(t, "nft", "list", "tables"); !strings.Contains(tables, "smartnat-hold") {
		t.Fatalf("iptables is not held: %s", tables)
	}
	write(t, configFile, strings.Replace(readFile(t, configFile), "dataplane: iptables", "dataplane: nftables", 1))
	program = startProgram(t, systemd, configFile)
	awaitWord(t, systemd, "READY=1", 2)
	flow := startTraffic(t)
	if !strings.Contains(output(t, "nft", "list", "table", "ip", "smartnat"), "flags owner") {
		testenv.Lacks(t, "tables with an owner that stay (Linux 6.9)")
	}
	awaitWord(t, systemd, "FDSTOREREMOVE=1", 1)
	output(t, "nft", "flush", "ruleset")
	flow.end(t)
	flow.check(t)
	if tables := output(t, "nft", "list", "tables"); strings.Contains(tables, "smartnat-hold") || !strings.Contains(tables, "table ip smartnat\n") {
		t.Errorf("after a flush the tables are\n%s", tables)
	}
	program.end(t)
}
