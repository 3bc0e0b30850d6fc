// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// The variants of iptables, as the programs name them in the output of --version.
const (
	Legacy   = "legacy"
	NFTables = "nf_tables"
)

// Options select the programs and how they run.
type Options struct {
	// Variant is "auto" (that of the program named iptables), NFTables or Legacy.
	Variant string
	// LockTimeout is the maximum wait for the lock that other programs hold. Only the legacy variant has a lock.
	LockTimeout time.Duration
	// IPv6 makes New fail if the IPv6 tables cannot be programmed. Otherwise they are used if possible.
	IPv6 bool
}

// A program may run for programTimeout in addition to the wait for the lock, which is enough to read everything or to write a
// few changes. It gets lineTimeout more for each line that it writes: a slow machine takes a minute for 100,000 ports, which
// are 350,000 lines.
const (
	programTimeout = time.Minute
	lineTimeout    = time.Millisecond / 2
)

// probeTimeout bounds the run of a program that is queried about itself.
const probeTimeout = 10 * time.Second

// Runner runs the programs of one variant. It is safe for concurrent use.
type Runner struct {
	variant  string
	wait     string
	programs map[gateway.Family]program
	// randomFully is set if the programs of all families support --random-fully.
	randomFully bool
	// sets is set if rules of all families can match ipsets.
	sets bool
	// withoutIPv6 is the reason why IPv6 cannot be programmed, if Options.IPv6 is not set.
	withoutIPv6 error
	// timeout is when a program is killed. Writes get more; queries of a program about itself get probeTimeout.
	timeout, probeTimeout time.Duration

	execs atomic.Int64
	// buffers reuses memory for the text of batches.
	buffers sync.Pool
}

// program is the path of iptables or ip6tables. The save and restore programs are in the same directory.
type program string

func (p program) save() string    { return string(p) + "-save" }
func (p program) restore() string { return string(p) + "-restore" }

// New finds the programs in PATH, as go-iptables does.
func New(opts Options) (*Runner, error) { return newRunner(opts, probeTimeout) }

func newRunner(opts Options, probeTimeout time.Duration) (*Runner, error) {
	suffix, found := map[string]string{"": "", "auto": "", NFTables: "-nft", Legacy: "-legacy"}[opts.Variant]
	if !found {
		return nil, fmt.Errorf("iptables variant %q is not one of auto, nf_tables, legacy", opts.Variant)
	}
	r := &Runner{
		wait:         lockWait(opts.LockTimeout),
		programs:     map[gateway.Family]program{},
		timeout:      opts.LockTimeout + programTimeout,
		probeTimeout: probeTimeout,
		randomFully:  true,
		sets:         true,
	}
	if err := r.find(gateway.IPv4, "iptables"+suffix, goiptables.ProtocolIPv4); err != nil {
		return nil, err
	}
	if kernelHasIPv6() {
		randomFully, sets := r.randomFully, r.sets
		if err := r.find(gateway.IPv6, "ip6tables"+suffix, goiptables.ProtocolIPv6); opts.IPv6 && err != nil {
			return nil, err
		} else if err != nil {
			r.withoutIPv6, r.randomFully, r.sets = err, randomFully, sets
		}
	}
	return r, nil
}

// lockWait returns the argument of --wait, in seconds.
func lockWait(timeout time.Duration) string { return strconv.Itoa(int(math.Ceil(timeout.Seconds()))) }

func kernelHasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// reportedVariant returns the variant that a program reports. Versions before 1.8 have only one and do not name it.
func reportedVariant(version []byte) string {
	if bytes.Contains(version, []byte("("+NFTables+")")) {
		return NFTables
	}
	return Legacy
}

func (r *Runner) find(family gateway.Family, name string, protocol goiptables.Protocol) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("finding %s (is the package iptables installed?): %w", name, err)
	}
	// Run this first: go-iptables runs the same command without a timeout.
	if _, err := r.probe(path, "--version"); err != nil {
		return err
	}
	tables, err := goiptables.New(goiptables.IPFamily(protocol), goiptables.Path(path))
	if err != nil {
		return fmt.Errorf("reading the version of %s: %w", path, err)
	}
	r.randomFully = r.randomFully && tables.HasRandomFully()
	// The program knows a match only if both the program and the kernel support it.
	_, err = r.probe(path, "-m", "set", "--help")
	if errors.Is(err, ErrHung) {
		return err
	}
	r.sets = r.sets && err == nil
	// Query the restore program, because it is the one that writes.
	version, err := r.probe(program(path).restore(), "--version")
	if err != nil {
		return err
	}
	variant := reportedVariant(version)
	if r.variant != "" && r.variant != variant {
		return fmt.Errorf("iptables is the variant %s, but %s is %s: set both to the same (update-alternatives), or name one in iptables.variant",
			r.variant, name, variant)
	}
	r.variant = variant
	r.programs[family] = program(path)
	return nil
}

// probe runs a program that prints information about itself.
func (r *Runner) probe(path string, args ...string) ([]byte, error) {
	return r.run(context.Background(), r.probeTimeout, nil, path, args...)
}

// Families returns the families that can be programmed, IPv4 first.
func (r *Runner) Families() []gateway.Family {
	families := make([]gateway.Family, 0, len(r.programs))
	for f := range r.programs {
		families = append(families, f)
	}
	slices.Sort(families)
	return families
}

// WithoutIPv6 returns why the IPv6 tables cannot be programmed although the kernel supports IPv6, or nil. It is always nil if
// Options.IPv6 is set.
func (r *Runner) WithoutIPv6() error { return r.withoutIPv6 }

// Variant returns Legacy or NFTables.
func (r *Runner) Variant() string { return r.variant }

// RandomFully reports whether MASQUERADE supports --random-fully.
func (r *Runner) RandomFully() bool { return r.randomFully }

// Sets reports whether rules can match ipsets.
func (r *Runner) Sets() bool { return r.sets }

// Physdev reports whether rules of all families can match frames that a bridge switches. The query may load br_netfilter.
func (r *Runner) Physdev() bool {
	for _, p := range r.programs {
		if _, err := r.probe(string(p), "-m", "physdev", "--help"); err != nil {
			return false
		}
	}
	return true
}

// Execs returns the number of programs run so far.
func (r *Runner) Execs() int64 { return r.execs.Load() }

// Save reads all tables of a family.
func (r *Runner) Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error) {
	p, err := r.program(family)
	if err != nil {
		return ruleset.Ruleset{}, err
	}
	out, err := r.run(ctx, r.timeout, nil, p.save())
	if err != nil {
		return ruleset.Ruleset{}, err
	}
	rules, err := ruleset.Parse(family, out)
	if err != nil {
		return ruleset.Ruleset{}, fmt.Errorf("output of %s: %w", p.save(), err)
	}
	return rules, nil
}

// keptBuffer is the maximum capacity of a buffer that is kept for reuse. A few changes fit; the text of a full write is large
// and rare.
const keptBuffer = 256 << 10

// Restore writes a batch. A table that is refused does not block the others, before or after it, except that nat is not
// written after filter was refused, because filter refuses packets that nat marks. The error is ErrLocked, ErrHung, or a
// *LineError if the program named a line, which usually matches gateway.ErrRefused.
func (r *Runner) Restore(ctx context.Context, batch ruleset.Batch) error {
	var errs []error
	for !batch.Empty() {
		err := r.restore(ctx, batch)
		errs = append(errs, err)
		refused, ok := errors.AsType[*LineError](err)
		if !ok || batch.Tables[refused.table].Name == "filter" {
			break
		}
		batch.Tables = batch.Tables[refused.table+1:]
	}
	return errors.Join(errs...)
}

func (r *Runner) restore(ctx context.Context, batch ruleset.Batch) error {
	p, err := r.program(batch.Family)
	if err != nil {
		return err
	}
	args := []string{"--noflush"}
	if r.variant == Legacy {
		args = append(args, "--wait", r.wait)
	}
	buffer, _ := r.buffers.Get().(*[]byte)
	if buffer == nil {
		buffer = new([]byte)
	}
	if *buffer, err = batch.AppendText((*buffer)[:0]); err != nil {
		return err
	}
	timeout := r.timeout + time.Duration(bytes.Count(*buffer, []byte("\n")))*lineTimeout
	if _, err = r.run(ctx, timeout, *buffer, p.restore(), args...); err != nil {
		// The goroutine that feeds a killed program may still read the buffer, so do not reuse it.
		return describe(err, *buffer)
	}
	if cap(*buffer) <= keptBuffer {
		r.buffers.Put(buffer)
	}
	return nil
}

func (r *Runner) program(family gateway.Family) (program, error) {
	p, found := r.programs[family]
	if !found {
		return "", fmt.Errorf("IPv%d cannot be programmed on this host", family)
	}
	return p, nil
}

func (r *Runner) run(ctx context.Context, timeout time.Duration, input []byte, path string, args ...string) ([]byte, error) {
	r.execs.Add(1)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrHung)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// WaitDelay ends the wait for a killed program whose child still holds the pipes.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, context.Cause(ctx))
		}
		return nil, &runError{command: strings.Join(cmd.Args, " "), err: err, stderr: strings.TrimSpace(stderr.String())}
	}
	return stdout.Bytes(), nil
}
