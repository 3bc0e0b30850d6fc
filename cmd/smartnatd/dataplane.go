// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ipset"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/nftables"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

// plane is the data plane that a config selects on this host.
type plane struct {
	// name is config.DataplaneIPTables or config.DataplaneNFTables. reason is for people.
	name, reason string
	// programs run iptables; nil with nftables.
	programs *program.Runner
}

// physdev reports whether rules can tell frames that a bridge switches from routed packets. nftables needs a kernel with tables
// of the bridge family.
func (p plane) physdev() bool {
	if p.programs != nil {
		return p.programs.Physdev()
	}
	own := gateway.DefaultOwnership()
	tables, err := netlink.NewTables(own.TableName(), true)
	if err != nil {
		return false
	}
	defer tables.Close()
	ruleset := nftables.New(nftables.Options{Ownership: own, Kernel: tables, Families: []gateway.Family{gateway.IPv4}})
	return ruleset.Try(context.Background(), gateway.State{BridgeNetfilter: gateway.Families{IPv4: true}}) == nil
}

// flowtable returns an error, for people, unless established connections can bypass the rules. It does not affect packets.
func (p plane) flowtable(cfg config.Config) error {
	switch {
	case p.programs != nil:
		return errors.New("the data plane is iptables")
	case cfg.Flowtable == config.FlowtableOff:
		return errors.New("flowtable is off in the config")
	}
	tables, err := netlink.NewTables(cfg.Ownership.TableName(), true)
	if err != nil {
		return err
	}
	defer tables.Close()
	ruleset := nftables.New(nftables.Options{Ownership: cfg.Ownership, Kernel: tables, Families: kernelFamilies()})
	err = ruleset.Try(context.Background(), gateway.State{Flowtable: gateway.Flowtable{
		Families: gateway.Families{IPv4: true, IPv6: true}, Links: []gateway.FlowLink{{Name: "lo", Index: 1}},
	}})
	if err != nil {
		return fmt.Errorf("this kernel has no flowtables (nf_flow_table_inet, nft_flow_offload, nft_fib_ipv4, nft_fib_ipv6): %w", err)
	}
	return nil
}

// otherChains returns the base chains of nf_tables that affect what this data plane accepts. The chain FORWARD of iptables-nft does not
// drop it if rules of this data plane come first there.
func (p plane) otherChains(own gateway.Ownership) (gateway.OtherChains, error) {
	found, err := host.ReadChains(own)
	if p.programs != nil && p.programs.Variant() == program.NFTables {
		found.Dropping = slices.DeleteFunc(found.Dropping, gateway.BaseChain.OfIPTables)
	}
	return found, err
}

// legacyChains returns those of legacy iptables, but for a data plane whose own rules come first there.
func (p plane) legacyChains(own gateway.Ownership) (gateway.OtherChains, error) {
	if p.programs != nil && p.programs.Variant() == program.Legacy {
		return gateway.OtherChains{}, nil
	}
	return host.ReadLegacyChains(own)
}

// spellFlowtable says whether there is a flowtable, or why not.
func spellFlowtable(why error) string {
	if why != nil {
		return fmt.Sprintf("off: %v", why)
	}
	return "on"
}

// choosePlane selects the data plane. With "auto" it calls try to find out whether iptables works.
func choosePlane(cfg config.Config, try func(*program.Runner) error) (plane, error) {
	if cfg.Dataplane == config.DataplaneNFTables {
		return plane{name: config.DataplaneNFTables, reason: "dataplane is nftables in the config"}, nil
	}
	programs, err := newIPTables(cfg)
	switch {
	case cfg.Dataplane == config.DataplaneAuto && isMissing(err):
		return plane{name: config.DataplaneNFTables, reason: fmt.Sprintf("iptables is not installed: %v", err)}, nil
	case err != nil:
		return plane{}, err
	case cfg.Dataplane == config.DataplaneIPTables:
		return plane{config.DataplaneIPTables, "dataplane is iptables in the config", programs}, nil
	}
	switch err := try(programs); {
	case err == nil:
		return plane{config.DataplaneIPTables, "iptables accepts a trial rule", programs}, nil
	case errors.Is(err, gateway.ErrRefused):
		return plane{name: config.DataplaneNFTables, reason: fmt.Sprintf("iptables does not work: %v", err)}, nil
	default:
		// The cause passes, such as a lock that is held. It must not turn a host with iptables into one with nftables.
		return plane{config.DataplaneIPTables, fmt.Sprintf("the trial of iptables was inconclusive: %v", err), programs}, nil
	}
}

// isMissing reports whether programs of iptables are not installed.
func isMissing(err error) bool {
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

// dataplanes constructs the data plane of each config. It is safe for concurrent use.
type dataplanes struct {
	// log is nil for commands.
	log logrus.FieldLogger
	mu  sync.Mutex
	// tables holds the socket that owns our tables of nf_tables. It stays open until the process ends, even if the data plane
	// changes meanwhile.
	tables *netlink.Tables
}

// open returns the tables of nf_tables. Only one socket of a process can own them.
func (p *dataplanes) open(own gateway.Ownership) (*netlink.Tables, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tables == nil {
		tables, err := netlink.NewTables(own.TableName(), false)
		if err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		p.tables = tables
	}
	return p.tables, nil
}

// owned reports whether this process owns our tables of nf_tables.
func (p *dataplanes) owned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tables != nil && p.tables.Owned()
}

// close gives up the tables.
func (p *dataplanes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tables != nil {
		_ = p.tables.Close()
	}
}

// ruleset constructs the Ruleset of nftables.
func (p *dataplanes) ruleset(cfg config.Config, families []gateway.Family) (*nftables.Ruleset, error) {
	tables, err := p.open(cfg.Ownership)
	if err != nil {
		return nil, err
	}
	return nftables.New(nftables.Options{
		Ownership: cfg.Ownership, Kernel: tables, Families: families, GuardOnly: guardOnly(cfg),
		FlowtableRefused: func(family gateway.Family, why error) {
			if p.log != nil {
				p.log.WithError(why).WithField("family", family).Warn("kernel refused the flowtable, rules see each packet")
			}
		},
	}), nil
}

// dataplane constructs the data plane. counted is chosen.programs, or counts its calls; sets may be nil.
func (p *dataplanes) dataplane(cfg config.Config, chosen plane, counted iptables.Program, sets iptables.Sets) (*dataplane.Dataplane, meter.Refusals, error) {
	if chosen.name == config.DataplaneNFTables {
		ruleset, err := p.ruleset(cfg, kernelFamilies())
		if err != nil {
			return nil, nil, err
		}
		return assemble(cfg, ruleset, allIPTables(cfg)), ruleset, nil
	}
	return assemble(cfg, newIPTablesRuleset(cfg, chosen.programs, counted, sets),
		iptables.NewLeftovers(chosen.programs.Unused(), cfg.Ownership), tableLeftovers{p, cfg}), nil, nil
}

// assemble constructs a Dataplane. The rules of leftovers go once those of the Ruleset are in effect.
func assemble(cfg config.Config, ruleset dataplane.Ruleset, leftovers ...dataplane.Leftovers) *dataplane.Dataplane {
	return dataplane.New(dataplane.Options{
		Ownership:    cfg.Ownership,
		GuardOnly:    guardOnly(cfg),
		CountTraffic: countsTraffic(cfg),
		TakeOver:     cfg.EndpointChoice == config.ChoiceMaglev || cfg.HA.Enabled(),
		RecordTimes:  cfg.FlowLog.File != "",
		Ruleset:      ruleset,
		Leftovers:    leftovers,
		Routes:       rtnetlink.New(cfg.Ownership),
		Sysctls:      sysctl.New(cfg.RuntimeDir),
		Conntrack:    conntrack.New(cfg.Ownership),
	})
}

// newIPTablesRuleset takes tables for their capabilities, and program for access, which may count calls.
func newIPTablesRuleset(cfg config.Config, tables *program.Runner, program iptables.Program, sets iptables.Sets) *iptables.Ruleset {
	return iptables.New(iptables.Options{
		Ownership: cfg.Ownership, Program: program, Sets: sets, RandomFully: tables.RandomFully(), GuardOnly: guardOnly(cfg),
	})
}

// guardOnly returns the families that get only the boundary.
func guardOnly(cfg config.Config) []gateway.Family {
	if cfg.IPv6 {
		return nil
	}
	return []gateway.Family{gateway.IPv6}
}

func kernelFamilies() []gateway.Family {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []gateway.Family{gateway.IPv4}
	}
	return []gateway.Family{gateway.IPv4, gateway.IPv6}
}

// allIPTables returns what both variants of iptables may hold of ours.
func allIPTables(cfg config.Config) dataplane.Leftovers {
	var tables []iptables.UnusedTables
	for _, variant := range program.AllUnused(cfg.IPTables.LockTimeout) {
		tables = append(tables, variant)
	}
	return iptables.NewAllLeftovers(tables, func() (iptables.Sets, error) {
		// A question about sets would load their module.
		if _, err := os.Stat("/sys/module/ip_set"); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		sets, err := ipset.New(cfg.Ownership)
		if errors.Is(err, ipset.ErrNotSupported) {
			return nil, nil
		}
		return sets, err
	}, cfg.Ownership)
}

// tableLeftovers implements dataplane.Leftovers: our tables of nf_tables. A host without any stays as it is.
type tableLeftovers struct {
	planes *dataplanes
	cfg    config.Config
}

// Remove implements dataplane.Leftovers.
func (l tableLeftovers) Remove(ctx context.Context) (dataplane.Changes, error) {
	families, err := l.families()
	if err != nil {
		return dataplane.Changes{}, fmt.Errorf("looking for tables of nftables: %w", err)
	}
	if len(families) == 0 {
		return dataplane.Changes{}, nil
	}
	ruleset, err := l.planes.ruleset(l.cfg, families)
	if err != nil {
		return dataplane.Changes{}, err
	}
	return dataplane.LeftoversOf(ruleset).Remove(ctx)
}

// families returns the families that have a table of ours. It writes nothing and loads no kernel module.
func (l tableLeftovers) families() ([]gateway.Family, error) {
	if there, err := program.NFTablesIsThere(); err != nil || !there {
		return nil, err
	}
	client, err := netlink.New(netlink.Options{Shared: true})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var families []gateway.Family
	for _, family := range kernelFamilies() {
		managed, err := client.Managed(l.cfg.Ownership.TableName(), family)
		if err != nil {
			return nil, err
		}
		if managed { // a table of the same name may belong to another program
			families = append(families, family)
		}
	}
	return families, nil
}
