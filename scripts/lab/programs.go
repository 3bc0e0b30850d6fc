// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// choosePrograms sets the PATH of each host.
func (l *Lab) choosePrograms() error {
	if l.binDir != "" { // kubectl finds its plugin in the PATH
		if err := l.Host(Control).addPath(l.binDir, false); err != nil {
			return err
		}
	}
	return errors.Join(l.Host(Control).addPath(l.kubeDir, true), l.chooseGatewayPrograms())
}

func (l *Lab) chooseGatewayPrograms() error {
	if l.binDir != "" {
		if err := l.Host(Gateway).addPath(l.binDir, false); err != nil {
			return err
		}
	}
	return l.chooseVariant(l.Host(Gateway))
}

// chooseVariant puts the programs of the selected variant first in a gateway's PATH.
func (l *Lab) chooseVariant(gateway *Host) error {
	if l.options.variant == "" {
		return nil
	}
	variant, known := map[string]string{"nf_tables": "-nft", "legacy": "-legacy"}[l.options.variant]
	if !known {
		return fmt.Errorf("iptables variant %q is not one of nf_tables, legacy", l.options.variant)
	}
	dir := filepath.Join(workDir, "iptables"+variant)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			program, err := gateway.lookPath(family + variant + suffix)
			if err != nil {
				return err
			}
			if err := os.Symlink(program, filepath.Join(dir, family+suffix)); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	return gateway.addPath(dir, true)
}

// RenewGateway replaces the gateway with a new one in its initial state, changed only by opts. It ends the processes of the
// old gateway and discards its kernel state and files.
func (l *Lab) RenewGateway(ctx context.Context, opts ...Option) error {
	for _, option := range opts {
		option(&l.options)
	}
	old := l.Host(Gateway)
	if err := l.run.killAllOf(old); err != nil {
		return err
	}
	all := topology()
	spec := all[slices.IndexFunc(all, func(s hostSpec) bool { return s.name == Gateway })]
	if err := errors.Join(l.links.disconnect(spec), l.removeHost(Gateway), os.RemoveAll(hostDir(Gateway))); err != nil {
		return fmt.Errorf("removing the gateway: %w", err)
	}
	host, err := l.addHost(Gateway)
	if err != nil {
		return err
	}
	return errors.Join(ctx.Err(), l.links.join(host, spec), l.chooseGatewayPrograms())
}
