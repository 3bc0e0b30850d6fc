// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Names that kube-proxy and the CNI plugin portmap give their tables, chains and maps (pkg/proxy in k8s.io/kubernetes,
// plugins/meta/portmap in github.com/containernetworking/plugins).
const (
	proxyTable        = "kube-proxy"
	proxyNodePorts    = "service-nodeports"
	iptablesNAT       = "nat"
	proxyServices     = "KUBE-SERVICES"
	proxyNodePortsNAT = "KUBE-NODEPORTS"
	portmapTable      = "cni_hostport"
	portmapNAT        = "CNI-HOSTPORT-DNAT"
)

// The kinds of a gateway.Claim.
const (
	nodePort = "NodePort"
	hostPort = "hostPort"
)

// claiming is a chain whose rules take ports.
type claiming struct{ table, chain, kind string }

func claimingChains() []claiming {
	return []claiming{
		{iptablesNAT, proxyNodePortsNAT, nodePort},
		{iptablesNAT, portmapNAT, hostPort},
		{portmapTable, "hostports", hostPort},
		{portmapTable, "hostip_hostports", hostPort},
	}
}

// others remembers what the rules of the last call said.
type others struct {
	mu sync.Mutex
	// legacy reads the legacy tables of iptables. They have no generation, and 10,000 ports of ours there are megabytes, so that
	// readings bounds the time for them.
	legacy   func() (gateway.OtherRules, error)
	readings budget.Budget
	// tables is the last result of nf_tables, in its generation, and byLegacy that of the legacy tables, if read is set.
	tables, byLegacy gateway.OtherRules
	generation       uint32
	read             bool
	chains           otherChains
}

// merged returns the last result of both.
func (o *others) merged() gateway.OtherRules {
	claims := slices.Concat(o.byLegacy.Claims, o.tables.Claims)
	slices.SortFunc(claims, gateway.Claim.Compare)
	return gateway.OtherRules{ServiceProxy: cmp.Or(o.tables.ServiceProxy, o.byLegacy.ServiceProxy), Claims: slices.Compact(claims), Chains: o.chains.merged()}
}

// legacyReadings lets the reading of legacy tables take at most half a percent of the time, but for the first ones.
func legacyReadings() budget.Budget { return budget.New(200, 10*time.Second) }

// readLegacy returns the last result if the tables were read too recently for their size.
func (o *others) readLegacy() (gateway.OtherRules, error) {
	started := time.Now()
	if o.read && !o.readings.Allows(started) {
		return o.byLegacy, nil
	}
	found, err := o.legacy()
	ended := time.Now()
	o.readings.Spend(ended, ended.Sub(started))
	return found, err
}

// OtherRules returns what rules of kube-proxy and of the CNI plugin portmap say about this host, in nf_tables and in the legacy
// tables of iptables, and which base chains affect connections of Mappings. Of nf_tables, it reads single chains, and those of
// kube-proxy and portmap only after a change of any rule.
func (h *Host) OtherRules() (gateway.OtherRules, error) {
	generation, err := ruleGeneration()
	if err != nil {
		return gateway.OtherRules{}, fmt.Errorf("reading the rules of other programs: %w", err)
	}
	o := &h.others
	o.mu.Lock()
	defer o.mu.Unlock()
	byLegacy, err := o.readLegacy()
	if err != nil {
		return gateway.OtherRules{}, fmt.Errorf("reading the rules of other programs: %w", err)
	}
	tables := o.tables
	if !o.read || o.generation != generation {
		if tables, err = readTables(); err != nil {
			return gateway.OtherRules{}, fmt.Errorf("reading the rules of other programs: %w", err)
		}
	}
	o.tables, o.byLegacy, o.generation, o.read = tables, byLegacy, generation, true
	if err := o.chains.update(generation, time.Now()); err != nil {
		h.log.WithError(err).Debug("failed to read base chains, keeping the last result")
	}
	return o.merged(), nil
}

// readOthers returns the last result if it cannot read the rules, for example because their owner replaces them: links and routes count
// regardless. It fails if there is none, because a node that is taken for another host would cut off its cluster.
func (h *Host) readOthers() (gateway.OtherRules, error) {
	found, err := h.OtherRules()
	if err == nil {
		return found, nil
	}
	h.others.mu.Lock()
	defer h.others.mu.Unlock()
	if !h.others.read {
		return gateway.OtherRules{}, err
	}
	h.log.WithError(err).Debug("failed to read rules of others, keeping the last result")
	return h.others.merged(), nil
}

// readTables returns what nf_tables says.
func readTables() (gateway.OtherRules, error) {
	var found gateway.OtherRules
	hook, err := dialRules()
	if err != nil {
		return found, err
	}
	for _, family := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		if err := hook.others(family, &found); err != nil {
			return found, errors.Join(err, hook.conn.Close())
		}
	}
	return found, hook.conn.Close()
}

func dialRules() (*forwardHook, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	return &forwardHook{conn: conn}, nil
}

// ruleGeneration returns the number of transactions of nf_tables so far, or 0 without nf_tables.
func ruleGeneration() (uint32, error) {
	hook, err := dialRules()
	if err != nil {
		return 0, err
	}
	defer func() { _ = hook.conn.Close() }()
	messages, err := hook.request(unix.NFT_MSG_GETGEN, unix.AF_UNSPEC, 0, nil)
	if lacksTables(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var generation uint32
	for _, m := range messages {
		err = errors.Join(err, eachAttribute(m.Data[nfgenmsgLength:], func(d *netlink.AttributeDecoder) {
			if d.Type() == unix.NFTA_GEN_ID {
				generation = d.Uint32()
			}
		}))
	}
	return generation, err
}

// lacksTables reports whether the error means that the kernel has no nf_tables, or not for a family, or shows it to root only.
func lacksTables(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.EPERM)
}

// others adds what the tables of a family say.
func (h *forwardHook) others(family uint8, to *gateway.OtherRules) error {
	// Most hosts have none of these tables, and one request finds that out.
	tables, err := h.tables(family)
	if err != nil {
		return err
	}
	if tables[iptablesNAT] {
		proxied, err := h.exists(family, iptablesNAT, proxyServices)
		if err != nil {
			return err
		}
		if proxied {
			to.ServiceProxy = "kube-proxy (iptables)"
		}
	}
	if tables[proxyTable] {
		to.ServiceProxy = "kube-proxy (nftables)"
	}
	unspecified := netip.IPv4Unspecified()
	if family == unix.NFPROTO_IPV6 {
		unspecified = netip.IPv6Unspecified()
	}
	for _, c := range claimingChains() {
		if !tables[c.table] {
			continue
		}
		claims, err := h.claims(family, c)
		if err != nil {
			return err
		}
		for _, claim := range claims {
			if !claim.Address.IsValid() {
				claim.Address = unspecified
			}
			claim.Kind = c.kind
			to.Claims = append(to.Claims, claim)
		}
	}
	if !tables[proxyTable] {
		return nil
	}
	return h.nodePorts(family, unspecified, to)
}

// tables returns the names of the tables of a family.
func (h *forwardHook) tables(family uint8) (map[string]bool, error) {
	messages, err := h.dump(unix.NFT_MSG_GETTABLE, family, nil)
	if lacksTables(err) {
		return nil, nil
	}
	names := map[string]bool{}
	for _, m := range messages {
		err = errors.Join(err, eachAttribute(m.Data[nfgenmsgLength:], func(d *netlink.AttributeDecoder) {
			if d.Type() == unix.NFTA_TABLE_NAME {
				names[d.String()] = true
			}
		}))
	}
	return names, err
}

// exists reports whether a table has a chain.
func (h *forwardHook) exists(family uint8, table, chain string) (bool, error) {
	_, err := h.request(unix.NFT_MSG_GETCHAIN, family, 0, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_CHAIN_TABLE, table)
		e.String(unix.NFTA_CHAIN_NAME, chain)
	})
	if errors.Is(err, unix.ENOENT) || lacksTables(err) {
		return false, nil
	}
	return err == nil, err
}

// claims returns the ports that the rules of a chain match. A chain that does not exist has none.
func (h *forwardHook) claims(family uint8, of claiming) ([]gateway.Claim, error) {
	if exists, err := h.exists(family, of.table, of.chain); err != nil || !exists {
		return nil, err
	}
	rules, err := h.dump(unix.NFT_MSG_GETRULE, family, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_TABLE, of.table)
		e.String(unix.NFTA_RULE_CHAIN, of.chain)
	})
	if err != nil {
		return nil, err
	}
	var found []gateway.Claim
	for _, message := range rules {
		var rule portRule
		if err := eachAttribute(message.Data[nfgenmsgLength:], func(d *netlink.AttributeDecoder) {
			if d.Type() == unix.NFTA_RULE_EXPRESSIONS {
				within(d, rule.expression)
			}
		}); err != nil {
			return nil, err
		}
		found = append(found, rule.claims()...)
	}
	return found, nil
}

// nodePorts adds the elements of kube-proxy's map of NodePorts. A key is the protocol and the port, each in a register of 4
// bytes.
func (h *forwardHook) nodePorts(family uint8, unspecified netip.Addr, to *gateway.OtherRules) error {
	messages, err := h.dump(unix.NFT_MSG_GETSETELEM, family, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_SET_ELEM_LIST_TABLE, proxyTable)
		e.String(unix.NFTA_SET_ELEM_LIST_SET, proxyNodePorts)
	})
	if errors.Is(err, unix.ENOENT) || lacksTables(err) {
		return nil
	}
	if err != nil {
		return err
	}
	const registers = 8
	add := func(key []byte) {
		if len(key) != registers {
			return
		}
		if protocol, known := protocolNumbered(key[0]); known {
			port := uint16(key[4])<<8 | uint16(key[5])
			to.Claims = append(to.Claims, gateway.Claim{Protocol: protocol, Address: unspecified, Ports: gateway.Port(port), Kind: nodePort})
		}
	}
	for _, message := range messages {
		if err := eachAttribute(message.Data[nfgenmsgLength:], func(d *netlink.AttributeDecoder) {
			if d.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				within(d, func(d *netlink.AttributeDecoder) { within(d, func(d *netlink.AttributeDecoder) { elementKey(d, add) }) })
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

func elementKey(d *netlink.AttributeDecoder, add func([]byte)) {
	if d.Type() != unix.NFTA_SET_ELEM_KEY {
		return
	}
	within(d, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_DATA_VALUE {
			add(d.Bytes())
		}
	})
}

func protocolNumbered(number uint8) (gateway.Protocol, bool) {
	protocol, known := map[uint8]gateway.Protocol{
		unix.IPPROTO_TCP: gateway.TCP, unix.IPPROTO_UDP: gateway.UDP, unix.IPPROTO_SCTP: gateway.SCTP,
	}[number]
	return protocol, known
}
