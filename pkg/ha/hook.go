// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

// Hook is a program that moves the virtual addresses where the network does not follow their announcements, as in clouds.
type Hook struct {
	Path, Instance string
	// Addresses are those of HookAddresses.
	Addresses []string
}

// HookAddresses returns LINK=ADDRESS for each virtual address.
func HookAddresses(h config.HA) []string {
	var all []string
	for _, l := range h.Links {
		for _, a := range l.VirtualAddresses {
			all = append(all, l.Interface+"="+a.String())
		}
	}
	return all
}

// NewHook returns the hook that a line of keepalived.conf describes.
func NewHook(program, instance string, addresses []string) (Hook, error) {
	if !config.PlainPath.MatchString(program) {
		return Hook{}, fmt.Errorf("%.200q: want the absolute path of a hook", program)
	}
	if !config.ValidInstance(instance) {
		return Hook{}, fmt.Errorf("%.200q: want the name of this instance", instance)
	}
	for _, item := range addresses {
		link, address, _ := strings.Cut(item, "=")
		if _, err := netip.ParseAddr(address); err != nil || !config.ValidLink(link) {
			return Hook{}, fmt.Errorf("%.200q: want LINK=ADDRESS", item)
		}
	}
	return Hook{program, instance, addresses}, nil
}

// Environment returns what a hook gets with a role.
func (h Hook) Environment(role Role) []string {
	return []string{
		"SMARTNAT_HA_ROLE=" + string(role), "SMARTNAT_HA_INSTANCE=" + h.Instance, "SMARTNAT_HA_ADDRESSES=" + strings.Join(h.Addresses, " "),
	}
}

const (
	// HookTimeout bounds a call of a hook.
	HookTimeout = 30 * time.Second
	// HookAttempts bounds the calls for a role, and maxHookPause the time between two.
	HookAttempts = 20
	maxHookPause = 10 * time.Second
)

// HookPause returns the time after a number of failed calls.
func HookPause(failed int) time.Duration {
	return min(time.Second<<min(failed-1, 10), maxHookPause)
}

// HookFile has the result of the last call, as JSON.
func HookFile(runtimeDir string) string { return path.Join(runtimeDir, "ha-hook") }

// HookResult is what became of the calls for a role.
type HookResult struct {
	Role     Role      `json:"role"`
	Attempts int       `json:"attempts"`
	Ended    time.Time `json:"ended"`
	// Problem is empty if the last call succeeded.
	Problem string `json:"problem,omitempty"`
}
