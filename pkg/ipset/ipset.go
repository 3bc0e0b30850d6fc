// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ipset

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// ErrNotSupported says that the kernel has no sets of networks.
var ErrNotSupported = errors.New("the kernel has no sets of networks (ip_set_hash_net)")

// Rules of nf_tables that were removed let go of a set a little later.
const (
	releaseTimeout = 2 * time.Second
	releasePoll    = 5 * time.Millisecond
)

// Client reads and writes our sets. It keeps no socket between calls.
type Client struct {
	prefix   string
	revision uint8
}

// New returns a Client for the sets that own names, or ErrNotSupported.
func New(own gateway.Ownership) (*Client, error) {
	answers, err := newRequest(nl.IPSET_CMD_TYPE).name(nl.IPSET_ATTR_TYPENAME, typeName).family(netfilter.IPv4).execute()
	if err != nil || len(answers) == 0 {
		return nil, errors.Join(ErrNotSupported, err)
	}
	return &Client{prefix: own.SetPrefix, revision: parse(answers[0]).revision}, nil
}

func (r request) family(f netfilter.Family) request {
	r.AddData(nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, nl.Uint8Attr(families[f])))
	return r
}

// Observe returns our sets with their members, sorted.
func (c *Client) Observe() ([]netfilter.Set, error) {
	headers, err := c.headers()
	if err != nil {
		return nil, err
	}
	var sets []netfilter.Set
	for _, h := range headers {
		answers, err := newRequest(nl.IPSET_CMD_LIST).name(nl.IPSET_ATTR_SETNAME, h.name).execute()
		if errors.Is(err, unix.ENOENT) {
			continue // It went meanwhile.
		}
		if err != nil {
			return nil, fmt.Errorf("reading the set %s: %w", h.name, err)
		}
		set := netfilter.Set{Name: h.name, Family: h.family}
		for _, a := range answers {
			set.Members = append(set.Members, parse(a).members...)
		}
		slices.SortFunc(set.Members, netip.Prefix.Compare)
		sets = append(sets, set)
	}
	return sets, nil
}

// headers are our sets without their members, sorted by name.
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

var seed = maphash.MakeSeed()

// Stamp is another number once there are other sets of ours, or one has more members or less. The members are not read.
func (c *Client) Stamp() (uint64, error) {
	headers, err := c.headers()
	if err != nil {
		return 0, err
	}
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, h := range headers {
		_, _ = fmt.Fprintln(&hash, h.name, h.kind, h.family, h.count)
	}
	return hash.Sum64(), nil
}

// Put creates the set, or gives it these members in place of those that it has, at once for those who are looked up.
func (c *Client) Put(set netfilter.Set) error {
	err := c.create(set.Name, set.Family)
	if err == nil {
		return c.members(nl.IPSET_CMD_ADD, set.Name, set.Members)
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	next := c.prefix + "next"
	if err := c.Destroy(next); err != nil { // Who was interrupted may have left it behind.
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

// Change adds members to a set and removes others, one after the other.
func (c *Client) Change(set netfilter.Set, add, remove []netip.Prefix) error {
	if err := c.members(nl.IPSET_CMD_ADD, set.Name, add); err != nil {
		return err
	}
	return c.members(nl.IPSET_CMD_DEL, set.Name, remove)
}

// Destroy removes a set that no rule names. One that there is none of is no error.
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

func (c *Client) create(name string, family netfilter.Family) error {
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

// swap exchanges the members of two sets.
func (c *Client) swap(name, other string) error {
	_, err := newRequest(nl.IPSET_CMD_SWAP).name(nl.IPSET_ATTR_SETNAME, name).name(nl.IPSET_ATTR_SETNAME2, other).execute()
	if err != nil {
		return fmt.Errorf("swapping the sets %s and %s: %w", name, other, err)
	}
	return nil
}

// members adds or deletes members, thousands a message. What is so already is no error.
func (c *Client) members(command int, name string, members []netip.Prefix) error {
	for some := range slices.Chunk(members, membersPerMessage) {
		r := newRequest(command).name(nl.IPSET_ATTR_SETNAME, name)
		entries := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
		for _, p := range some {
			appendMember(entries, p)
		}
		r.AddData(entries)
		// The kernel wants a number for the line that it would complain about.
		if _, err := r.number(nl.IPSET_ATTR_LINENO, 0).execute(); err != nil {
			return fmt.Errorf("changing the members of the set %s: %w", name, err)
		}
	}
	return nil
}
