// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/pkg/bugreport"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/logging"
	"github.com/smartnat/smartnat/pkg/operator"
)

const (
	// programTimeout bounds each program that a bug report runs, and each question to smartnatd.
	programTimeout = 30 * time.Second
	// journalLines are those of the last hours of a gateway with work to do.
	journalLines = "5000"
)

func newBugreportCommand() *cobra.Command {
	var file string
	command := &cobra.Command{
		Use:   "bugreport",
		Short: "Collect what helps to find a fault into a tar.gz, without secrets; changes nothing",
		Long: `bugreport writes an archive with the effective config, the status of the running smartnatd, what differs in the kernel, rules, routes,
ip rules, links, sysctls, versions, and the end of smartnatd's journal. It works without a running smartnatd and without root, and says
what is missing.

The archive holds no token, key or password: not the files that the config names, and none of their content where it may have come into
another part. It does hold addresses, names of Mappings, and rules of other programs: look at it before you pass it on.`,
		Args: cobra.NoArgs,
	}
	command.Flags().StringVar(&file, "file", "", "the archive's `path`, or - for standard output (default smartnat-bugreport-TIME.tar.gz in the current folder)")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := cmd.Flags().GetString(configFlag)
		if err != nil {
			return err
		}
		now := time.Now()
		name := "smartnat-bugreport-" + now.UTC().Format("20060102T150405Z")
		if file == "-" {
			to := cmd.OutOrStdout()
			if printable, ok := to.(logging.PrintableWriter); ok {
				to = printable.To // an archive is no text
			}
			return report(cmd.Context(), cmd.ErrOrStderr(), to, path, name, now)
		}
		if file == "" {
			file = name + ".tar.gz"
		}
		// Never an existing file, which another user may have made.
		to, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("creating the archive: %w", err)
		}
		err = errors.Join(report(cmd.Context(), cmd.ErrOrStderr(), to, path, name, now), to.Close())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
		return err
	}
	return command
}

// report writes the archive, and a line to messages for each part that is missing.
func report(ctx context.Context, messages, to io.Writer, configFile, folder string, now time.Time) error {
	cfg, err := config.Load(configFile)
	var secrets bugreport.Secrets
	if err != nil {
		// The error may quote what is in the file.
		err = fmt.Errorf("%s cannot be used: 'smartnatd check' says why", configFile)
		cfg = config.Default()
		secrets = guessSecrets(configFile)
	} else {
		secrets = secretsOf(cfg)
	}
	archive := bugreport.NewArchive(to, folder, now, secrets)
	archive.Add("version.txt", []byte(versionText()+"\n"), nil)
	var text []byte
	if err == nil {
		text, err = yaml.Marshal(cfg)
	}
	archive.Add("config.yaml", text, err)
	for _, file := range []string{"/proc/version", "/etc/os-release", "/proc/modules", "/proc/net/stat/nf_conntrack"} {
		content, err := os.ReadFile(file)
		archive.Add("host/"+filepath.Base(file)+".txt", content, err)
	}
	addAnswers(ctx, archive, cfg)
	absent := absentModules()
	for _, p := range reported() {
		if module := absent[p.args[0]]; module != "" {
			archive.Add(p.name, nil, fmt.Errorf("the kernel module %s is not loaded", module))
			continue
		}
		output, err := runProgram(ctx, p.args)
		archive.Add(p.name, output, err)
	}
	content, err := parameters()
	archive.Add("host/sysctls.txt", content, err)
	missing, err := archive.Close()
	for _, line := range missing {
		_, _ = fmt.Fprintln(messages, "missing: "+line)
	}
	return err
}

// readSecret passes the content of a file. One that cannot be read is no source of a leak.
func readSecret(path string, add func([]byte)) {
	if content, err := os.ReadFile(path); err == nil {
		add(content)
	}
}

// guessSecrets returns all that may be a secret in a config that cannot be used: values that should be files, and the content of files.
func guessSecrets(configFile string) bugreport.Secrets {
	var secrets bugreport.Secrets
	readSecret(configFile, func(content []byte) {
		secrets.Config(content, func(path string) {
			readSecret(path, secrets.Lines)
			readSecret(path, secrets.Kubeconfig)
		})
	})
	return secrets
}

// secretsOf returns the content of all credentials that a config names.
func secretsOf(cfg config.Config) bugreport.Secrets {
	var secrets bugreport.Secrets
	if r := cfg.Source.Relay; r != nil {
		for _, server := range r.Servers {
			secrets.URL(server)
		}
		readSecret(r.TokenFile, func(content []byte) { secrets.Text(string(content)) })
		readSecret(filepath.Join(cfg.StateDir, "token"), func(content []byte) { secrets.Text(string(content)) })
		readSecret(r.KeyFile, secrets.Lines)
	}
	if k := cfg.Source.Kubeconfig; k != nil && k.Path != "" {
		readSecret(k.Path, secrets.Kubeconfig)
	}
	return secrets
}

// addAnswers asks the running smartnatd.
func addAnswers(ctx context.Context, archive *bugreport.Archive, cfg config.Config) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	client := operator.NewClient(operator.SocketPath(cfg.RuntimeDir))
	status, err := client.Status(ctx)
	addJSON(archive, "status.json", status, err)
	if err != nil {
		return // diff would fail for the same reason
	}
	differences, err := client.Diff(ctx, nil)
	addJSON(archive, "diff.json", differences, err)
}

func addJSON(archive *bugreport.Archive, name string, answer any, err error) {
	var text []byte
	if err == nil {
		text, err = json.MarshalIndent(answer, "", "  ")
	}
	archive.Add(name, text, err)
}

// part is the output of a program.
type part struct {
	name string
	args []string
}

// reported are the programs whose output is in a report. They only read.
func reported() []part {
	return []part{
		{"rules/nft.txt", []string{"nft", "list", "ruleset"}},
		{"rules/iptables-nft.txt", []string{"iptables-nft-save", "-c"}},
		{"rules/ip6tables-nft.txt", []string{"ip6tables-nft-save", "-c"}},
		{"rules/iptables-legacy.txt", []string{"iptables-legacy-save", "-c"}},
		{"rules/ip6tables-legacy.txt", []string{"ip6tables-legacy-save", "-c"}},
		{"rules/ipset.txt", []string{"ipset", "save"}},
		{"host/links.txt", []string{"ip", "-details", "link", "show"}},
		{"host/addresses.txt", []string{"ip", "address", "show"}},
		{"host/ip-rules.txt", []string{"ip", "-4", "rule", "show"}},
		{"host/ip-rules6.txt", []string{"ip", "-6", "rule", "show"}},
		{"host/routes.txt", []string{"ip", "-4", "route", "show", "table", "all"}},
		{"host/routes6.txt", []string{"ip", "-6", "route", "show", "table", "all"}},
		{"journal.txt", []string{"journalctl", "--unit=smartnatd", "--unit=smartnat-boundary", "--lines=" + journalLines, "--no-pager", "--output=short-iso"}},
		{"unit.txt", []string{"systemctl", "show", "smartnatd", "--no-pager", "--property=ActiveState,SubState,Result,NRestarts,StatusText,ExecMainStartTimestamp,MemoryCurrent,FragmentPath,DropInPaths"}},
	}
}

// absentModules returns the modules that are not loaded, by the program that would load them to read nothing from them.
func absentModules() map[string]string {
	absent := map[string]string{}
	if there, err := program.NFTablesIsThere(); err == nil && !there {
		absent["nft"], absent["iptables-nft-save"], absent["ip6tables-nft-save"] = "nf_tables", "nf_tables", "nf_tables"
	}
	if _, err := os.Stat("/sys/module/ip_set"); errors.Is(err, fs.ErrNotExist) {
		absent["ipset"] = "ip_set"
	}
	return absent
}

// runProgram returns the output. The error has the first line that the program said.
func runProgram(ctx context.Context, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	var output, said bytes.Buffer
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	command.Stdout, command.Stderr, command.WaitDelay = &output, &said, time.Second
	err := command.Run()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, first)
	}
	return output.Bytes(), err
}

// parameters returns the kernel parameters that decide about forwarded packets, one on each line.
func parameters() ([]byte, error) {
	const root = "/proc/sys/"
	var lines []string
	var errs []error
	for _, pattern := range []string{
		"net/ipv4/ip_forward", "net/ipv4/conf/*/rp_filter", "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/src_valid_mark", "net/ipv4/ip_local_port_range",
		"net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/accept_ra*", "net/ipv6/conf/*/disable_ipv6", "net/ipv6/fib_multipath_hash_policy",
		"net/netfilter/*", "net/bridge/*", "net/nf_conntrack_max",
	} {
		paths, err := filepath.Glob(root + pattern)
		errs = append(errs, err)
		for _, path := range paths {
			value, err := os.ReadFile(path)
			if err != nil {
				continue // some can only be written
			}
			lines = append(lines, strings.TrimPrefix(path, root)+" = "+strings.TrimSpace(string(value)))
		}
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "\n") + "\n"), errors.Join(errs...)
}
