// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/smartnat/smartnat/pkg/gateway"
)

const ipForward = "net/ipv4/ip_forward"

// The reverse path filter (ip-sysctl): the kernel goes by the larger of a link's value and that of all links.
const (
	strict = "1"
	loose  = "2"
)

func reversePathFilter(link string) string { return "net/ipv4/conf/" + link + "/rp_filter" }

// setSysctls has uplinks take packets whose answers the main table would send another way: a strict filter becomes a loose
// one, and never more than that.
func (d *Dataplane) setSysctls(state gateway.State, result *Result) error {
	var errs []error
	all, err := d.opts.Sysctls.Get(reversePathFilter("all"))
	if err != nil {
		errs = append(errs, err)
	}
	for _, uplink := range state.Uplinks {
		key := reversePathFilter(uplink.Link)
		own, err := d.opts.Sysctls.Get(key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // The link went; its routes will tell.
		case err != nil:
			errs = append(errs, err)
		case max(all, own) == strict:
			errs = append(errs, d.ensure(key, loose, result))
		}
	}
	return errors.Join(errs...)
}

// restoreSysctls puts back what a link that is no uplink any more was given.
func (d *Dataplane) restoreSysctls(state gateway.State, result *Result) error {
	keep := []string{ipForward}
	for _, uplink := range state.Uplinks {
		keep = append(keep, reversePathFilter(uplink.Link))
	}
	restored, err := d.opts.Sysctls.Restore(keep...)
	for _, key := range restored {
		delete(d.sysctls, key)
	}
	result.Sysctls = append(result.Sysctls, restored...)
	return err
}

// ensure sets a parameter. What is so already is left alone, and so is not ours to put back.
func (d *Dataplane) ensure(key, value string, result *Result) error {
	is, err := d.opts.Sysctls.Get(key)
	if err != nil {
		return err
	}
	if is == value {
		d.sysctls[key] = value
		return nil
	}
	if d.sysctls[key] == value {
		result.Missing = append(result.Missing, fmt.Sprintf("sysctl %s=%s: it was %s", key, value, is))
	}
	if err := d.opts.Sysctls.Set(key, value); err != nil {
		return err
	}
	d.sysctls[key] = value
	result.Sysctls = append(result.Sysctls, key)
	return nil
}
