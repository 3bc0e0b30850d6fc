// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// MaxFacts bounds the Facts of a box, in bytes of JSON.
const MaxFacts = 64 << 10

// Facts are what a box tells its peer.
type Facts struct {
	Version  string   `json:"version"`
	Instance string   `json:"instance"`
	Role     Notified `json:"role"`
	Priority int      `json:"priority"`
	// Healthy is set if smartnatd works there, and everything has been in effect.
	Healthy bool `json:"healthy"`
	// Settings are those that must be the same on both, by the key of the config.
	Settings map[string]string `json:"settings"`
	// Missed are neighbours that do not answer.
	Missed []netip.Addr `json:"missed,omitempty"`
	// Answering are neighbours that answered the last question.
	Answering []netip.Addr `json:"answering,omitempty"`
	// Questions counts those to the neighbours. Answering has the answers to the one before the last.
	Questions uint64 `json:"questions"`
	// Connections is the number of entries in the kernel's table.
	Connections int `json:"connections"`
}

// Status is what a box knows about its pair.
type Status struct {
	Own Facts `json:"own"`
	// Peer is nil if it never answered. PeerSeen is its last answer, and PeerProblem why there was none since.
	Peer        *Facts    `json:"peer,omitempty"`
	PeerSeen    time.Time `json:"peerSeen,omitzero"`
	PeerProblem string    `json:"peerProblem,omitempty"`
	// Differences are what does not fit together.
	Differences []string `json:"differences,omitempty"`
	// Refreshes counts how often the peer got all connections again, and SyncProblem says why it does not get them.
	Refreshes   uint64 `json:"refreshes"`
	SyncProblem string `json:"syncProblem,omitempty"`
	// Copying is nil while conntrackd does not answer.
	Copying *Copying `json:"copying,omitempty"`
	// Hook is nil until a hook was called.
	Hook *HookResult `json:"hook,omitempty"`
}

// Settings returns the settings that must be the same on both boxes, because they are in the marks of connections, or in VRRP's messages.
// A nil State is not known yet.
func Settings(cfg config.Config, state *gateway.State) map[string]string {
	all := map[string]string{
		"ownership.markMask": fmt.Sprintf("%#x", cfg.Ownership.MarkMask),
		"ha.virtualRouterID": fmt.Sprint(cfg.HA.VirtualRouterID),
		"ha.advertInterval":  cfg.HA.AdvertInterval.String(),
		"masqueradePorts":    cfg.MasqueradePorts.String(),
	}
	var virtual []string
	for _, l := range cfg.HA.Links {
		virtual = append(virtual, strings.Trim(fmt.Sprint(l.VirtualAddresses), "[]"))
	}
	all["ha.links"] = strings.Join(virtual, "; ")
	if state == nil {
		return all
	}
	// Links may have other names there, so that networks and next hops identify an uplink.
	var uplinks []string
	for _, u := range state.Uplinks {
		text := fmt.Sprintf("%d is", u.Number)
		for _, n := range u.Connected {
			if !n.IsSingleIP() && !n.Addr().IsLinkLocalUnicast() {
				text += " " + n.String()
			}
		}
		uplinks = append(uplinks, text)
	}
	all["uplinks"] = strings.Join(uplinks, ", ")
	return all
}

// maxText bounds how much of the peer's text a line repeats.
const maxText = 200

// Compare returns a line for each thing that does not fit together.
func Compare(own, peer Facts) []string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(own.Settings)) {
		theirs, known := peer.Settings[key]
		if ours := own.Settings[key]; known && ours != theirs {
			lines = append(lines, fmt.Sprintf("%s: %.*q here and %.*q on the peer: must be the same on both", key, maxText, ours, maxText, theirs))
		}
	}
	if own.Priority == peer.Priority {
		lines = append(lines, fmt.Sprintf("ha.priority: %d on both: must differ", own.Priority))
	}
	if own.Version != peer.Version {
		lines = append(lines, fmt.Sprintf("version: %.*q here and %.*q on the peer: upgrade the other one", maxText, own.Version, maxText, peer.Version))
	}
	return lines
}

// ParseFacts reads the Facts of the peer. An error is one line that repeats nothing of the text.
func ParseFacts(text []byte) (Facts, error) {
	var f Facts
	if len(text) > MaxFacts {
		return f, fmt.Errorf("more than %d bytes", MaxFacts)
	}
	if err := json.Unmarshal(text, &f); err != nil || f.Version == "" || f.Priority < 1 || f.Settings == nil || f.Connections < 0 {
		return Facts{}, errors.New("not what smartnatd answers")
	}
	if !slices.Contains(append(Roles(), Partial), f.Role.Role) {
		return Facts{}, errors.New("it has a role that this version does not know")
	}
	if !f.printable() {
		return Facts{}, errors.New("it has names or addresses that no smartnatd has")
	}
	return f, nil
}

// printable reports whether the texts that reach terminals and logs are such as a smartnatd has.
func (f Facts) printable() bool {
	if len(f.Version) > maxText || strings.ContainsFunc(f.Version, func(r rune) bool { return !unicode.IsPrint(r) }) || !config.ValidInstance(f.Instance) {
		return false
	}
	// A zone is any text.
	wrong := func(a netip.Addr) bool { return !a.IsValid() || a.Zone() != "" }
	return len(f.Missed)+len(f.Answering) <= maxWatched && !slices.ContainsFunc(f.Missed, wrong) && !slices.ContainsFunc(f.Answering, wrong)
}
