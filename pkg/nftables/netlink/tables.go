// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Tables reads and writes the tables of SmartNat, one for each family, with the same name. It is safe for concurrent use.
type Tables struct {
	name string

	mu     sync.Mutex
	client *Client
	port   uint32
	// bridged are the families that had a BridgeTable when this process last read or wrote it.
	bridged map[gateway.Family]bool
}

// NewTables returns the Tables with a name for the network namespace of the calling thread. If the kernel has tables that stay
// without their owner (Linux 6.9), this process owns the tables, unless shared is set.
func NewTables(name string, shared bool) (*Tables, error) {
	client, err := New(Options{Shared: shared})
	if err != nil {
		return nil, err
	}
	t := &Tables{name: name, client: client, bridged: map[gateway.Family]bool{}}
	if t.port, err = client.Port(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the address of the socket: %w", err), client.Close())
	}
	if err := t.probe(); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return t, nil
}

// Close gives up the tables. They stay.
func (t *Tables) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client.Close()
}

// Owned reports whether this process owns the tables that it writes.
func (t *Tables) Owned() bool { return t.client.Owns() }

// probe finds out whether the kernel has tables with an owner that stay.
func (t *Tables) probe() error {
	tx := t.transaction(gateway.IPv4, trySuffix)
	tx.AddTable(t.client.TableFlags())
	tx.DeleteTable()
	err := t.client.Commit(tx)
	if err != nil && t.client.Owns() && !errors.Is(err, unix.EPERM) {
		t.client.Share()
		return t.probe()
	}
	return err
}

// trySuffix ends the name of a table that exists only within a transaction.
const trySuffix = "-try"

func (t *Tables) transaction(family gateway.Family, suffix string) *Transaction {
	return NewTransaction(t.name+suffix, family)
}

// Inspect looks for the table and its BridgeTable without reading their content. An owned table cannot be changed by any other
// process.
func (t *Tables) Inspect(family gateway.Family) (exists, owned bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := t.client.Table(t.name, family)
	exists, owned = info.Exists, info.Exists && info.Owner == t.port
	if err == nil && t.bridged[family] {
		info, err = t.client.Table(ruleset.BridgeTable(t.name, family), ruleset.BridgeFamily)
		exists, owned = exists && info.Exists, owned && info.Owner == t.port
	}
	return exists, owned, err
}

// Read returns the content of the table, which is empty if there is none.
func (t *Tables) Read(family gateway.Family) (ruleset.Table, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	exists, bridged, err := t.checkBoth(family)
	if err != nil || !exists && !bridged {
		return ruleset.Table{Family: family}, err
	}
	table, err := t.client.Read(t.name, family)
	t.bridged[family] = bridged
	return table, err
}

// checkBoth returns an error if a table of the family is not ours.
func (t *Tables) checkBoth(family gateway.Family) (exists, bridged bool, err error) {
	if exists, err = t.check(t.name, family); err == nil {
		bridged, err = t.check(ruleset.BridgeTable(t.name, family), ruleset.BridgeFamily)
	}
	return exists, bridged, err
}

// check returns an error if the table is not ours.
func (t *Tables) check(name string, family gateway.Family) (exists bool, err error) {
	info, err := t.client.Table(name, family)
	switch {
	case err != nil:
		return false, err
	case !info.Exists:
		return false, nil
	case !info.Managed:
		return false, fmt.Errorf("the table %s of nf_tables was not made by smartnatd: remove it, or set ownership.setPrefix to another name", spell(name, family))
	case info.Owner != 0 && info.Owner != t.port:
		return true, t.awaitRelease(name, family, info.Owner)
	}
	return true, nil
}

// adopt becomes the owner of a table whose owner has ended. That takes a transaction of its own: the kernel refuses new base
// chains in the one that changes the owner (nf_tables_addchain in net/netfilter/nf_tables_api.c, __NFT_TABLE_F_UPDATE).
func (t *Tables) adopt(name string, family gateway.Family) error {
	if !t.client.Owns() {
		return nil
	}
	info, err := t.client.Table(name, family)
	if err != nil || !info.Exists || info.Owner == t.port {
		return err
	}
	tx := NewTransaction(name, family)
	tx.AddTable(t.client.TableFlags())
	return t.client.Commit(tx)
}

// spell returns the name of a table as nft does.
func spell(name string, family gateway.Family) string {
	switch family {
	case gateway.IPv4:
		return "ip " + name
	case ruleset.BridgeFamily:
		return "bridge " + name
	}
	return "ip6 " + name
}

// The table of a killed process loses its owner a moment after the process ends.
const (
	releaseTimeout = time.Second
	releasePoll    = 10 * time.Millisecond
)

func (t *Tables) awaitRelease(name string, family gateway.Family, owner uint32) error {
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(releasePoll) {
		info, err := t.client.Table(name, family)
		if err != nil || info.Owner == 0 || !info.Exists {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the table %s of nf_tables belongs to another process, netlink port %d: stop that smartnatd, or set ownership.setPrefix to another name",
				spell(name, family), owner)
		}
	}
}

// Write creates the table if necessary and changes its content in one transaction.
func (t *Tables) Write(ctx context.Context, family gateway.Family, batch ruleset.Batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.makeWritable(family, batch.ReplaceBridge || t.bridged[family]); err != nil {
		return err
	}
	tx := t.transaction(family, "")
	tx.AddTable(t.client.TableFlags())
	if batch.Rewrite {
		tx.DeleteTable()
		tx.AddTable(t.client.TableFlags())
	}
	prepare(tx, batch)
	finish(tx, batch)
	bridged := t.bridged[family]
	if batch.ReplaceBridge {
		bridged = len(batch.Bridge) > 0
	}
	tx.Append(t.bridge(family, batch, bridged))
	if err := ctx.Err(); err != nil {
		return err
	}
	err := t.client.Commit(tx)
	if err == nil {
		t.bridged[family] = bridged
	}
	return err
}

// Adopt becomes the owner of the table and of its BridgeTable, as Write does. It changes nothing else.
func (t *Tables) Adopt(family gateway.Family) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.makeWritable(family, t.bridged[family])
}

// makeWritable becomes the owner of the table of the family, and of its BridgeTable if that is set. It returns an error if one
// is not ours.
func (t *Tables) makeWritable(family gateway.Family, bridged bool) error {
	own := func(name string, family gateway.Family) error {
		if _, err := t.check(name, family); err != nil {
			return err
		}
		return t.adopt(name, family)
	}
	if err := own(t.name, family); err != nil || !bridged {
		return err
	}
	return own(ruleset.BridgeTable(t.name, family), ruleset.BridgeFamily)
}

// bridge changes the BridgeTable.
func (t *Tables) bridge(family gateway.Family, batch ruleset.Batch, stays bool) *Transaction {
	tx := NewTransaction(ruleset.BridgeTable(t.name, family), ruleset.BridgeFamily)
	if stays || batch.ReplaceBridge {
		tx.AddTable(t.client.TableFlags())
	}
	if !batch.ReplaceBridge {
		return tx
	}
	tx.DeleteTable()
	if stays {
		tx.AddTable(t.client.TableFlags())
		addBridge(tx, batch.Bridge)
	}
	return tx
}

func addBridge(tx *Transaction, chains []ruleset.Chain) {
	for _, c := range chains {
		tx.AddChain(c)
		tx.AddRules(c.Name, c.Rules)
	}
}

// prepare adds sets and chains, so that everything else can refer to them.
func prepare(tx *Transaction, batch ruleset.Batch) {
	for _, h := range batch.AddHelpers {
		tx.AddHelper(h)
	}
	for _, s := range batch.AddSets {
		tx.AddSet(s)
	}
	for _, c := range batch.AddChains {
		tx.AddChain(c)
	}
	for _, s := range batch.AddSets {
		tx.AddElements(s.Name, s.Schema, s.Elements) // verdicts name the chains
	}
}

// finish adds everything else, and deletes what nothing refers to any more. The rules that use a Flowtable go before it, and it
// goes before another one takes its links.
func finish(tx *Transaction, batch ruleset.Batch) {
	for _, e := range batch.DeleteElements {
		tx.DeleteElements(e.Set, e.Schema, e.List)
	}
	for _, e := range batch.AddElements {
		tx.AddElements(e.Set, e.Schema, e.List)
	}
	for _, c := range batch.ReplaceChains {
		tx.FlushChain(c.Name)
	}
	for _, c := range batch.DeleteChains {
		if len(c.Rules) > 0 {
			tx.FlushChain(c.Name)
		}
	}
	for _, f := range batch.DeleteFlowtables {
		tx.DeleteFlowtable(f.Name)
	}
	for _, f := range batch.AddFlowtables {
		tx.AddFlowtable(f)
	}
	for _, c := range slices.Concat(batch.AddChains, batch.ReplaceChains) {
		tx.AddRules(c.Name, c.Rules)
	}
	for _, s := range batch.DeleteSets {
		tx.DeleteSet(s.Name)
	}
	for _, c := range batch.DeleteChains {
		tx.DeleteChain(c.Name)
	}
	for _, h := range batch.DeleteHelpers {
		tx.DeleteHelper(h.Name)
	}
}

// Remove removes the table and its BridgeTable, if there are any of ours.
func (t *Tables) Remove(family gateway.Family) (removed bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	exists, bridged, err := t.checkBoth(family)
	if err != nil || !exists && !bridged {
		return false, err
	}
	if err := t.makeWritable(family, bridged); err != nil {
		return false, err
	}
	tx := t.transaction(family, "")
	if exists {
		tx.DeleteTable()
	}
	tx.Append(t.bridge(family, ruleset.Batch{ReplaceBridge: bridged}, false))
	if err := t.client.Commit(tx); err != nil {
		return true, err
	}
	delete(t.bridged, family)
	return true, nil
}

// Try returns gateway.ErrRefused if the kernel refuses something in the table. It writes and deletes a dormant table in one
// transaction.
func (t *Tables) Try(table ruleset.Table) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tx := t.transaction(table.Family, trySuffix)
	tx.AddTable(tableDormant)
	batch := ruleset.Diff(ruleset.Table{Family: table.Family}, table)
	prepare(tx, batch)
	finish(tx, batch)
	tx.DeleteTable()
	if len(table.Bridge) > 0 {
		bridge := NewTransaction(ruleset.BridgeTable(t.name+trySuffix, table.Family), ruleset.BridgeFamily)
		bridge.AddTable(tableDormant)
		addBridge(bridge, table.Bridge)
		bridge.DeleteTable()
		tx.Append(bridge)
	}
	return t.client.Commit(tx)
}

// Counts returns the elements of a set with counters, or none if there is no such set. whole is not set if elements may be missing.
// It uses a socket of its own, so that a large set delays no Write.
func (t *Tables) Counts(family gateway.Family, set string) (counts []ruleset.Count, whole bool, err error) {
	reader, err := New(Options{Shared: true})
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	return reader.Counts(t.name, set, family)
}

// Generation returns a number that changes whenever any process changes nf_tables in the network namespace.
func (t *Tables) Generation() (uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client.Generation()
}

// Watch calls changed once at the start and then whenever any process may have changed the tables. It returns nil when ctx ends.
func (t *Tables) Watch(ctx context.Context, changed func()) error {
	if t.Owned() {
		// Without a listener, the kernel composes no message for each element that this process writes.
		changed()
		<-ctx.Done()
		return nil
	}
	return Watch(ctx, changed)
}
