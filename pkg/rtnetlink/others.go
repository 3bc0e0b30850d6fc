// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// OtherRule is a policy routing rule that is not ours.
type OtherRule struct {
	IPv6     bool
	Priority int
	Text     string
}

// OtherRules returns the foreign policy routing rules of both families.
func (c *Client) OtherRules() ([]OtherRule, error) {
	conn, err := c.open()
	if err != nil {
		return nil, err
	}
	defer conn.close()
	var others []OtherRule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := dump(func() ([]netlink.Rule, error) { return conn.RuleList(family) })
		if err != nil {
			return nil, fmt.Errorf("reading the %s policy routing rules: %w", familyName(family), err)
		}
		for _, r := range all {
			if policyrouting.OurPriority(r.Priority, c.own) && int(r.Protocol) == c.own.RouteProtocol {
				continue
			}
			others = append(others, OtherRule{IPv6: family == netlink.FAMILY_V6, Priority: r.Priority, Text: ruleText(r)})
		}
	}
	return others, nil
}

// ruleText formats a rule as ip-rule(8) does. The library's own format omits the mark.
func ruleText(r netlink.Rule) string {
	text := fmt.Sprintf("%d: from all", r.Priority)
	if r.Src != nil {
		text = fmt.Sprintf("%d: from %s", r.Priority, r.Src)
	}
	if r.Dst != nil {
		text += fmt.Sprintf(" to %s", r.Dst)
	}
	if r.Mark != 0 || r.Mask != nil {
		text += fmt.Sprintf(" fwmark %#x", r.Mark)
		if r.Mask != nil {
			text += fmt.Sprintf("/%#x", *r.Mask)
		}
	}
	if r.IifName != "" {
		text += " iif " + r.IifName
	}
	if r.OifName != "" {
		text += " oif " + r.OifName
	}
	return text + fmt.Sprintf(" lookup %d", r.Table)
}
