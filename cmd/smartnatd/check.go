// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/source"
)

// How long check waits for the source of objects.
const checkTimeout = 10 * time.Second

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Validate the config file and this host; changes nothing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			c := checker{out: cmd.OutOrStdout()}
			wrong := cfg.CheckFiles()
			c.report("config", wrong)
			c.report("privileges", checkPrivileges())
			c.checkIPTables(cmd.Context(), cfg)
			c.checkUplinks(cfg)
			if wrong == nil { // What cannot be read would be said a second time, by libraries that do not mind secrets.
				c.report("source", checkSource(cmd.Context(), cfg))
			}
			if c.problems > 0 {
				return fmt.Errorf("%d of %d checks failed", c.problems, c.checks)
			}
			return nil
		},
	}
}

// checker prints a line a check.
type checker struct {
	out              io.Writer
	checks, problems int
}

func (c *checker) report(what string, err error) {
	c.checks++
	if err != nil {
		c.problems++
		fmt.Fprintf(c.out, "FAILED  %s: %v\n", what, err)
		return
	}
	fmt.Fprintf(c.out, "ok      %s\n", what)
}

func (c *checker) checkIPTables(ctx context.Context, cfg config.Config) {
	tables, err := newIPTables(cfg)
	if err != nil {
		c.report("iptables", err)
		return
	}
	c.report(fmt.Sprintf("iptables (%s)", tables.Backend()), nil)
	other, err := tables.OtherBackendRules(ctx)
	if err == nil && other != "" {
		err = errors.New(other)
	}
	c.report("one iptables back end", err)
}

func (c *checker) checkUplinks(cfg config.Config) {
	observed, err := host.New(logrus.StandardLogger()).Observe()
	if err != nil {
		c.report("uplinks", err)
		return
	}
	_, findings := calc.Calculate(calc.Snapshot{}, observed, cfg)
	for _, finding := range findings {
		err = errors.Join(err, errors.New(finding.String()))
	}
	c.report("uplinks", err)
}

// checkPrivileges looks at what systemd's unit grants, not at the user: CAP_NET_ADMIN is what the kernel asks for.
func checkPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("reading the capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("CAP_NET_ADMIN is missing: run as root, or by the systemd unit")
	}
	return nil
}

// checkSource waits for one complete list of objects.
func checkSource(ctx context.Context, cfg config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	// A source tries for ever; what it logs says why it does not succeed.
	var trouble lastEntry
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.AddHook(&trouble)
	objects, err := source.New(cfg.Source, func() {}, log)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- objects.Run(ctx) }()
	if cache.WaitForCacheSync(ctx.Done(), objects.HasSynced) {
		return nil
	}
	if err := <-ended; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("no complete list of objects within %v: %s", checkTimeout, trouble.String())
}

// lastEntry keeps the last line that was logged as a warning or worse.
type lastEntry struct {
	mu   sync.Mutex
	text string
}

func (*lastEntry) Levels() []logrus.Level { return logrus.AllLevels[:logrus.WarnLevel+1] }

func (e *lastEntry) Fire(entry *logrus.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text = entry.Message
	if err, ok := entry.Data[logrus.ErrorKey]; ok {
		e.text += fmt.Sprintf(": %v", err)
	}
	return nil
}

func (e *lastEntry) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.text == "" {
		return "no answer"
	}
	return e.text
}
