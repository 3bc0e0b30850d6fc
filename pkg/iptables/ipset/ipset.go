// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ipset

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// ErrNotSupported means that the kernel does not support sets of networks.
var ErrNotSupported = errors.New("the kernel does not support sets of networks (ip_set_hash_net)")

// releaseTimeout is how long Destroy waits: removed nf_tables rules release their sets with a delay.
const (
	releaseTimeout = 2 * time.Second
	releasePoll    = 5 * time.Millisecond
)

// Client reads and writes our sets. It keeps no socket open between calls.
type Client struct {
	prefix   string
	revision uint8
}

// New returns a Client for the sets that own identifies, or ErrNotSupported.
func New(own gateway.Ownership) (*Client, error) {
	answers, err := newRequest(nl.IPSET_CMD_TYPE).name(nl.IPSET_ATTR_TYPENAME, typeName).family(gateway.IPv4).execute()
	if err != nil || len(answers) == 0 {
		return nil, errors.Join(ErrNotSupported, err)
	}
	return &Client{prefix: own.SetPrefix, revision: parse(answers[0]).revision}, nil
}

func (r request) family(f gateway.Family) request {
	r.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(families[f])))
	return r
}

// Observe returns our sets with their members, sorted.
func (c *Client) Observe() ([]ruleset.Set, error) {
	headers, err := c.headers()
	if err != nil {
		return nil, err
	}
	var sets []ruleset.Set
	for _, h := range headers {
		answers, err := newRequest(nl.IPSET_CMD_LIST).name(nl.IPSET_ATTR_SETNAME, h.name).execute()
		if errors.Is(err, unix.ENOENT) {
			continue // removed since the listing
		}
		if err != nil {
			return nil, fmt.Errorf("reading the set %s: %w", h.name, err)
		}
		set := ruleset.Set{Name: h.name, Family: h.family}
		for _, a := range answers {
			set.Members = append(set.Members, parse(a).members...)
		}
		slices.SortFunc(set.Members, netip.Prefix.Compare)
		sets = append(sets, set)
	}
	return sets, nil
}

// headers returns our sets without members, sorted by name.
func (c *Client) headers() ([]answer, error) {
	answers, err := newRequest(nl.IPSET_CMD_LIST).number(nl.IPSET_ATTR_FLAGS, listHeader).execute()
	if err != nil {
		return nil, fmt.Errorf("listing the sets: %w", err)
	}
	var headers []answer
	for _, message := range answers {
		if a := parse(message); strings.HasPrefix(a.name, c.prefix) {
			headers = append(headers, a)
		}
	}
	slices.SortFunc(headers, func(a, b answer) int { return strings.Compare(a.name, b.name) })
	return headers, nil
}

// Sizes returns the number of members of each of our sets, by name. It does not read the members.
func (c *Client) Sizes() (map[string]int, error) {
	headers, err := c.headers()
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int, len(headers))
	for _, h := range headers {
		sizes[h.name] = int(h.count)
	}
	return sizes, nil
}

// Put creates the set, or replaces all members of an existing one atomically.
func (c *Client) Put(set ruleset.Set) error {
	err := c.create(set.Name, set.Family)
	if err == nil {
		return c.members(nl.IPSET_CMD_ADD, set.Name, set.Members)
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	next := c.prefix + "next"
	if err := c.Destroy(next); err != nil { // an interrupted Put may have left it behind
		return err
	}
	if err := c.create(next, set.Family); err != nil {
		return err
	}
	err = c.members(nl.IPSET_CMD_ADD, next, set.Members)
	if err == nil {
		err = c.swap(next, set.Name)
	}
	return errors.Join(err, c.Destroy(next))
}

// Change adds members to a set and then removes others.
func (c *Client) Change(set ruleset.Set, add, remove []netip.Prefix) error {
	if err := c.members(nl.IPSET_CMD_ADD, set.Name, add); err != nil {
		return err
	}
	return c.members(nl.IPSET_CMD_DEL, set.Name, remove)
}

// Destroy removes a set that no rule references. A missing set is not an error.
func (c *Client) Destroy(name string) error {
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(releasePoll) {
		_, err := newRequest(nl.IPSET_CMD_DESTROY).name(nl.IPSET_ATTR_SETNAME, name).execute()
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, nl.IPSetError(nl.IPSET_ERR_BUSY)), time.Now().After(deadline):
			return fmt.Errorf("destroying the set %s: %w", name, err)
		}
	}
}

func (c *Client) create(name string, family gateway.Family) error {
	r := newRequest(nl.IPSET_CMD_CREATE).name(nl.IPSET_ATTR_SETNAME, name).name(nl.IPSET_ATTR_TYPENAME, typeName)
	r.Flags |= unix.NLM_F_EXCL
	r.AddData(nl.NewRtAttr(nl.IPSET_ATTR_REVISION, nl.Uint8Attr(c.revision)))
	r = r.family(family)
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED), nil)
	data.AddChild(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_MAXELEM | nl.NLA_F_NET_BYTEORDER, Value: maxMembers})
	r.AddData(data)
	if _, err := r.execute(); err != nil {
		return fmt.Errorf("creating the set %s: %w", name, err)
	}
	return nil
}

// swap exchanges the contents of two sets.
func (c *Client) swap(name, other string) error {
	_, err := newRequest(nl.IPSET_CMD_SWAP).name(nl.IPSET_ATTR_SETNAME, name).name(nl.IPSET_ATTR_SETNAME2, other).execute()
	if err != nil {
		return fmt.Errorf("swapping the sets %s and %s: %w", name, other, err)
	}
	return nil
}

// members adds or deletes members, up to membersPerMessage in each message. A change that is already in effect is not an
// error.
func (c *Client) members(command int, name string, members []netip.Prefix) error {
	for some := range slices.Chunk(members, membersPerMessage) {
		r := newRequest(command).name(nl.IPSET_ATTR_SETNAME, name)
		entries := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
		for _, p := range some {
			appendMember(entries, p)
		}
		r.AddData(entries)
		// The kernel requires a line number for its error reports.
		if _, err := r.number(nl.IPSET_ATTR_LINENO, 0).execute(); err != nil {
			return fmt.Errorf("changing the members of the set %s: %w", name, err)
		}
	}
	return nil
}
