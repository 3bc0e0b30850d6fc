// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/atomicfile"
	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/enroll"
	"github.com/smartnat/smartnat/pkg/host"
)

// packagedConfig is the SHA-256 of the /etc/smartnat.yaml that the packages install, which enroll may replace.
const packagedConfig = "866525c50a53b61966846db213196006dbe9c4301484eac58cb9555f443fef27"

// enrolling is one run of enroll.
type enrolling struct {
	configPath, folder string
	uplinks            []string
	force, start       bool
	out                io.Writer
}

func newEnrollCommand() *cobra.Command {
	e := &enrolling{}
	cmd := &cobra.Command{
		Use:   "enroll BUNDLE",
		Short: "Make this host a gateway of a cluster, or renew its credential",
		Long: `enroll reads the output of 'kubectl smartnat enroll' ("-" is standard input), writes the credential and a complete config for this
host, and runs the same checks as 'smartnatd check'. It finds the uplinks by default routes, and the route to the ClusterIPs by the
nodes that are neighbours of this host; it says what it could not find.

It never replaces a config that someone edited, unless --force is given. If that config uses the credential already, enroll only renews
the credential, and the running smartnatd takes it without a restart.

Exit codes: 0 enrolled; 1 a file or the host could not be read or written; 2 the bundle is invalid, or a check failed.`,
		Example: `  smartnatd enroll gateway-1.yaml --start
  smartnatd enroll - --uplink eth1 --uplink eth2=203.0.113.1 <gateway-1.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("want the file that 'kubectl smartnat enroll' wrote, or - for standard input")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if e.configPath, err = cmd.Flags().GetString(configFlag); err != nil {
				return err
			}
			e.out = cmd.OutOrStdout()
			bundle, err := readBundle(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return e.run(cmd.Context(), bundle, time.Now())
		},
	}
	cmd.Flags().StringArrayVar(&e.uplinks, "uplink", nil, "an uplink, as `NAME[=GATEWAY]`; may be given several times; by default the links with a default route")
	cmd.Flags().StringVar(&e.folder, "credentials", "/etc/smartnat", "the `folder` for the credential")
	cmd.Flags().BoolVar(&e.force, "force", false, "replace the config")
	cmd.Flags().BoolVar(&e.start, "start", false, "enable and start smartnatd.service if no check fails")
	return cmd
}

func readBundle(name string, stdin io.Reader) (*enroll.Bundle, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("reading the bundle: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, enroll.MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle: %w", err)
	}
	bundle, err := enroll.Parse(text)
	if err != nil {
		return nil, usageError{err}
	}
	return bundle, nil
}

func (e *enrolling) files() enroll.Files {
	return enroll.Files{Token: filepath.Join(e.folder, "token"), Authorities: filepath.Join(e.folder, "ca.crt")}
}

func (e *enrolling) run(ctx context.Context, bundle *enroll.Bundle, now time.Time) error {
	if !bundle.Expires.After(now) {
		return usageError{fmt.Errorf("the credential of the bundle ended at %s: run kubectl smartnat enroll %s again", bundle.Expires.UTC().Format(time.RFC3339), bundle.Gateway)}
	}
	if !filepath.IsAbs(e.folder) {
		return usageError{fmt.Errorf("--credentials: %q is not an absolute path", e.folder)}
	}
	renew, err := e.renews(bundle)
	if err != nil {
		return err
	}
	var text []byte
	if !renew {
		if text, err = e.newConfig(bundle); err != nil {
			return err
		}
	}
	if err := e.write(bundle, text); err != nil {
		return err
	}
	cfg, err := config.Load(e.configPath)
	if err != nil {
		return usageError{err}
	}
	return e.checkAndStart(ctx, cfg, renew)
}

// renews reports whether the existing config uses the credential, so that only the credential is written. It fails if a config is in
// the way.
func (e *enrolling) renews(bundle *enroll.Bundle) (bool, error) {
	text, err := os.ReadFile(e.configPath)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && fmt.Sprintf("%x", sha256.Sum256(text)) == packagedConfig, err == nil && e.force:
		return false, nil
	case err != nil:
		return false, asRoot(fmt.Errorf("reading the config: %w", err))
	}
	cfg, err := config.Load(e.configPath)
	switch relay := cfg.Source.Relay; {
	case err != nil:
		return false, usageError{fmt.Errorf("%s exists and is not valid: repair it, or replace it with --force (%w)", e.configPath, err)}
	case relay == nil, relay.TokenFile != e.files().Token, relay.CAFile != e.files().Authorities:
		return false, usageError{fmt.Errorf("%s exists and does not use the credential %s: set source.relay to it, or replace the config with --force", e.configPath, e.files().Token)}
	case !cfg.InstanceFromHost && cfg.Instance != bundle.Gateway:
		return false, usageError{fmt.Errorf("%s is the config of gateway %s, and the bundle is of gateway %s: replace the config with --force", e.configPath, cfg.Instance, bundle.Gateway)}
	case bundle.Node != "" && cfg.Node != bundle.Node:
		return false, usageError{fmt.Errorf("%s is the config of node %s, and the bundle is of node %s: set node to that name, or replace the config with --force", e.configPath, cfg.Node, bundle.Node)}
	}
	return true, nil
}

func (e *enrolling) newConfig(bundle *enroll.Bundle) ([]byte, error) {
	var uplinks []enroll.Uplink
	for _, text := range e.uplinks {
		u, err := enroll.ParseUplink(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--uplink: %w", err)}
		}
		uplinks = append(uplinks, u)
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	observed, err := host.New(quiet).Observe()
	if err != nil {
		return nil, err
	}
	text, notes, err := enroll.Config(bundle, observed, e.files(), uplinks)
	if err != nil {
		return nil, usageError{err}
	}
	for _, note := range notes {
		fmt.Fprintf(e.out, "note    %s\n", note)
	}
	return text, nil
}

// write writes the credential, and the config if there is a new one, last.
func (e *enrolling) write(bundle *enroll.Bundle, text []byte) error {
	if err := os.MkdirAll(e.folder, 0o700); err != nil {
		return asRoot(fmt.Errorf("making the folder for the credential: %w", err))
	}
	for _, f := range []struct {
		path, what string
		content    []byte
		mode       fs.FileMode
	}{
		{e.files().Authorities, "the authority of the relay", []byte(bundle.Relay.CertificateAuthority), 0o600},
		{e.files().Token, "the credential, until " + bundle.Expires.UTC().Format(time.RFC3339), []byte(bundle.Relay.Token), 0o600},
		{e.configPath, "the config", text, 0o644},
	} {
		if f.content == nil {
			continue
		}
		if err := atomicfile.Write(f.path, f.content, f.mode); err != nil {
			return asRoot(fmt.Errorf("writing %s: %w", f.path, err))
		}
		fmt.Fprintf(e.out, "wrote   %s: %s\n", f.path, f.what)
	}
	return nil
}

// checkAndStart runs the checks of `smartnatd check`, and starts the unit or says how.
func (e *enrolling) checkAndStart(ctx context.Context, cfg config.Config, renewed bool) error {
	report := check.Run(ctx, e.out, newChecker(cfg).checks()...)
	if report.Failures > 0 {
		return codeError{fmt.Errorf("enrolled, but %d checks failed: correct them, then run smartnatd check", report.Failures), int(check.Failed)}
	}
	start := []string{"systemctl", "enable", "--now", "smartnatd.service"}
	switch {
	case e.start:
		cmd := exec.CommandContext(ctx, start[0], start[1:]...)
		cmd.Stdout, cmd.Stderr = e.out, e.out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("starting smartnatd.service: %w; see: journalctl --unit smartnatd", err)
		}
		fmt.Fprintln(e.out, "started smartnatd.service; see: smartnatd status")
	case renewed:
		fmt.Fprintln(e.out, "renewed; a running smartnatd takes the credential by itself")
	default:
		fmt.Fprintln(e.out, "enrolled; start it: systemctl enable --now smartnatd")
	}
	return nil
}
