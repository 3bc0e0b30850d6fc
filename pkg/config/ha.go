// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// HA is the pair that this gateway and its peer form. keepalived moves the virtual addresses (VRRP version 3, RFC 5798) and
// conntrackd copies connections; pkg/ha renders the config of both.
type HA struct {
	// SyncLink is the link between both, SyncAddress the address of this host on it, and Peer that of the other.
	SyncLink          string
	SyncAddress, Peer netip.Addr
	// SyncPort is the port on SyncAddress for conntrackd (UDP) and for the comparison with the peer (TCP); 3780 by default.
	SyncPort int
	// Links have the addresses that move.
	Links []HALink
	// Priority is higher on the box that gets the addresses if both start at the same time; 100 by default.
	Priority int
	// Preempt says whether the box with the higher priority takes the addresses back; never by default.
	Preempt Preempt
	// AdvertInterval is the time between two adverts; a backup takes over after some three of them. 100 ms by default.
	AdvertInterval time.Duration
	// VirtualRouterID identifies the pair on the first of Links. Each further link has the next ID. 51 by default.
	VirtualRouterID int `mapstructure:"virtualRouterID"`
	// Hook is a program that moves the addresses where the network does not follow their announcements; none by default.
	Hook string
}

// HALink is a link with addresses that move.
type HALink struct {
	// Interface is the name of the link.
	Interface string
	// VirtualAddresses are held by the box that is primary.
	VirtualAddresses []netip.Addr
	// Addresses are those of this host, Peers those of the peer on this link, from and to which adverts go: one for each family of
	// VirtualAddresses.
	Addresses, Peers []netip.Addr
}

// Preempt is when a box takes over from a healthy one with lower priority. The zero value is never.
type Preempt struct {
	// After is how long the other one must have been seen.
	After time.Duration
}

const (
	preemptNever = "never"
	preemptAfter = "after "
	// minPreempt leaves time for the connections to come back; maxPreempt is the largest value of keepalived.
	minPreempt, maxPreempt = 5 * time.Second, 1000 * time.Second
	// minAdvert and maxAdvert are the range of Max Adver Int, which counts centiseconds in 12 bits (RFC 5798, 5.2.7).
	minAdvert, maxAdvert = 10 * time.Millisecond, 4095 * 10 * time.Millisecond
	// maxPriority is the largest priority of a box that does not own the addresses for good (RFC 5798, 5.2.4).
	maxPriority = 254
	maxRouterID = 255
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Preempt) UnmarshalText(text []byte) error {
	p.After = 0
	after, delayed := strings.CutPrefix(string(text), preemptAfter)
	if !delayed {
		if string(text) != preemptNever {
			return errors.New("not a word for it")
		}
		return nil
	}
	var err error
	if p.After, err = time.ParseDuration(strings.TrimSpace(after)); err == nil && (p.After < minPreempt || p.After > maxPreempt) {
		err = errors.New("out of range")
	}
	return err
}

// Enabled reports whether the gateway is one of a pair.
func (h HA) Enabled() bool { return h.Peer.IsValid() }

// VirtualAddresses returns those of all links.
func (h HA) VirtualAddresses() []netip.Addr {
	var all []netip.Addr
	for _, l := range h.Links {
		all = append(all, l.VirtualAddresses...)
	}
	return all
}

// IsUplink reports whether an item of uplinks selects the link.
func (c *Config) IsUplink(link string) bool {
	return slices.ContainsFunc(c.Uplinks, func(u Uplink) bool {
		matches, err := u.Pattern()
		if err != nil {
			return false
		}
		return matches == nil && u.Interface == link || matches != nil && matches(link)
	})
}

// deriveHA adds the virtual addresses: those of uplinks are programmed ahead, and those inside replace the addresses of clients, so that
// the replies come to the box that is primary.
func (c *Config) deriveHA() {
	for _, l := range c.HA.Links {
		if c.IsUplink(l.Interface) {
			c.StandbyAddresses = union(c.StandbyAddresses, l.VirtualAddresses)
		} else {
			c.MasqueradeAddresses = union(c.MasqueradeAddresses, l.VirtualAddresses)
		}
	}
}

func union(list, more []netip.Addr) []netip.Addr {
	for _, a := range more {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// plainLink matches names that mean nothing but themselves in the config files of other programs.
var plainLink = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)

// PlainPath matches paths that mean nothing but themselves in keepalived's quoted strings, which know escapes and variables, and in units.
var PlainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+-]+$`)

// ValidLink reports whether a name can be that of a link of a pair.
func ValidLink(name string) bool { return plainLink.MatchString(name) }

func validateLink(name string, at *field.Path) field.ErrorList {
	if ValidLink(name) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "must be the name of a link: at most 15 letters, digits, '_', '.' and '-'")}
}

// validateHA also counts what the virtual addresses add to other keys.
func (c *Config) validateHA(at *field.Path) field.ErrorList {
	errs := c.HA.validate(at)
	whole := Config{Uplinks: c.Uplinks, HA: c.HA, MasqueradeAddresses: slices.Clip(c.MasqueradeAddresses)}
	whole.deriveHA()
	if n := len(whole.MasqueradeAddresses); len(errs) == 0 && n > maxMasqueradeAddresses && n > len(c.MasqueradeAddresses) {
		errs = append(errs, field.Invalid(at.Child("links"), n, fmt.Sprintf("must have at most %d virtual addresses on links that are not uplinks, with those in masqueradeAddresses", maxMasqueradeAddresses)))
	}
	return errs
}

func (h HA) validate(at *field.Path) field.ErrorList {
	if reflect.DeepEqual(h, Default().HA) {
		return nil
	}
	errs := h.validateSync(at)
	if len(h.Links) == 0 {
		errs = append(errs, field.Required(at.Child("links"), "must hold the links with virtual addresses"))
	}
	virtual := h.VirtualAddresses()
	var links []string
	for i, l := range h.Links {
		at := at.Child("links").Index(i)
		if slices.Contains(links, l.Interface) {
			errs = append(errs, field.Duplicate(at.Child("interface"), l.Interface))
		}
		links = append(links, l.Interface)
		errs = append(errs, l.validate(at)...)
		for j, a := range l.VirtualAddresses {
			if n := slices.Index(virtual, a); n < len(virtual)-1 && slices.Contains(virtual[n+1:], a) {
				virtual = slices.Delete(virtual, n, n+1)
				errs = append(errs, field.Duplicate(at.Child("virtualAddresses").Index(j), a.String()))
			}
		}
	}
	if slices.Contains(links, h.SyncLink) {
		errs = append(errs, field.Invalid(at.Child("syncLink"), h.SyncLink, "must be a link of its own: when a link with virtual addresses fails, the boxes must still reach each other"))
	}
	if h.Priority < 1 || h.Priority > maxPriority {
		errs = append(errs, field.Invalid(at.Child("priority"), h.Priority, fmt.Sprintf("must be from 1 to %d, and not that of the peer", maxPriority)))
	}
	if d := h.AdvertInterval; d < minAdvert || d > maxAdvert || d%minAdvert != 0 {
		errs = append(errs, field.Invalid(at.Child("advertInterval"), d.String(), fmt.Sprintf("must be from %s to %s, in steps of %[1]s (RFC 5798)", minAdvert, maxAdvert)))
	}
	if h.Hook != "" && !PlainPath.MatchString(h.Hook) {
		errs = append(errs, field.Invalid(at.Child("hook"), h.Hook, "must be an absolute path of letters, digits, '.', '_', '+' and '-', since keepalived would read other characters as its own"))
	}
	if last := h.VirtualRouterID + max(len(h.Links), 1) - 1; h.VirtualRouterID < 1 || last > maxRouterID {
		errs = append(errs, field.Invalid(at.Child("virtualRouterID"), h.VirtualRouterID, fmt.Sprintf("must be from 1 to %d, since each link has an ID of its own", maxRouterID+1-max(len(h.Links), 1))))
	}
	return errs
}

func (h HA) validateSync(at *field.Path) field.ErrorList {
	errs := validateLink(h.SyncLink, at.Child("syncLink"))
	for _, a := range []struct {
		key     string
		address netip.Addr
	}{{"syncAddress", h.SyncAddress}, {"peer", h.Peer}} {
		switch {
		case !a.address.IsValid():
			errs = append(errs, field.Required(at.Child(a.key), "must be an address on the link between both boxes, such as 10.99.0.1"))
		case !a.address.IsGlobalUnicast() || a.address.Is4In6() || a.address.Zone() != "":
			errs = append(errs, field.Invalid(at.Child(a.key), a.address.String(), "must be a unicast address that is not link-local"))
		}
	}
	switch {
	case !h.SyncAddress.IsValid() || !h.Peer.IsValid():
	case h.SyncAddress == h.Peer:
		errs = append(errs, field.Invalid(at.Child("peer"), h.Peer.String(), "must not be this host's own syncAddress"))
	case h.SyncAddress.Is4() != h.Peer.Is4():
		errs = append(errs, field.Invalid(at.Child("peer"), h.Peer.String(), "must be of the same family as syncAddress"))
	}
	if h.SyncPort < 1 || h.SyncPort > 65535 {
		errs = append(errs, field.Invalid(at.Child("syncPort"), h.SyncPort, "must be a port from 1 to 65535"))
	}
	return errs
}

func (l HALink) validate(at *field.Path) field.ErrorList {
	errs := validateLink(l.Interface, at.Child("interface"))
	if len(l.VirtualAddresses) == 0 {
		errs = append(errs, field.Required(at.Child("virtualAddresses"), "must hold at least one address that moves"))
	}
	errs = append(errs, validateAddresses(l.VirtualAddresses, at.Child("virtualAddresses"))...)
	errs = append(errs, validateAddresses(l.Addresses, at.Child("addresses"))...)
	errs = append(errs, validateAddresses(l.Peers, at.Child("peers"))...)
	for i, a := range l.VirtualAddresses {
		at := at.Child("virtualAddresses").Index(i)
		switch {
		case a.IsLinkLocalUnicast():
			errs = append(errs, field.Invalid(at, a.String(), "must not be link-local; the one that IPv6 needs is derived"))
		case slices.Contains(l.Addresses, a) || slices.Contains(l.Peers, a):
			errs = append(errs, field.Invalid(at, a.String(), "must not be an address that one box keeps"))
		}
	}
	for i, a := range l.Peers {
		if slices.Contains(l.Addresses, a) {
			errs = append(errs, field.Invalid(at.Child("peers").Index(i), a.String(), "must not be an address of this host"))
		}
	}
	for _, list := range []struct {
		key       string
		addresses []netip.Addr
	}{{"addresses", l.Addresses}, {"peers", l.Peers}} {
		for _, four := range []bool{true, false} {
			of := func(a netip.Addr) bool { return a.Is4() == four }
			needed, got := slices.ContainsFunc(l.VirtualAddresses, of), 0
			for _, a := range list.addresses {
				if of(a) {
					got++
				}
			}
			if needed && got != 1 || !needed && got > 0 {
				errs = append(errs, field.Invalid(at.Child(list.key), fmt.Sprint(list.addresses), "must hold one address for each family of virtualAddresses"))
				break
			}
		}
	}
	return errs
}
