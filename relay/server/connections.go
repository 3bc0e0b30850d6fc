// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"sync"
)

// admission is a listener that bounds the number of connections. An idle client cannot lock others out: a connection is
// unproven until one of its requests is authorized, and when the limit is reached, a new connection displaces the oldest
// unproven one. A proven connection is never displaced, and each user may have at most perUser of them.
type admission struct {
	net.Listener
	limit, perUser int // 0 is no limit
	metrics        *metrics

	mu       sync.Mutex
	open     int
	unproven *list.List // of *connection, the oldest first
	users    map[string]int
}

func newAdmission(listener net.Listener, limit, perUser int, m *metrics) *admission {
	return &admission{Listener: listener, limit: limit, perUser: perUser, metrics: m, unproven: list.New(), users: map[string]int{}}
}

// Accept returns the next admitted connection and closes those that exceed the limit.
func (a *admission) Accept() (net.Conn, error) {
	for {
		conn, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: conn, admission: a}
		displaced, admitted := a.admit(c)
		if displaced != nil {
			a.metrics.connectionsEnded.WithLabelValues("displaced").Inc()
			_ = displaced.Close()
		}
		if admitted {
			return c, nil
		}
		a.metrics.connectionsEnded.WithLabelValues("refused").Inc()
		_ = conn.Close()
	}
}

func (a *admission) admit(c *connection) (displaced *connection, admitted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limit > 0 && a.open >= a.limit {
		oldest := a.unproven.Front()
		if oldest == nil {
			return nil, false
		}
		displaced = oldest.Value.(*connection)
		a.forget(displaced)
	}
	a.open++
	c.element = a.unproven.PushBack(c)
	a.metrics.connections.Set(float64(a.open))
	return displaced, true
}

// forget removes a connection from the counts. Only the first call has an effect.
func (a *admission) forget(c *connection) {
	if c.gone {
		return
	}
	c.gone = true
	a.open--
	a.metrics.connections.Set(float64(a.open))
	if c.element != nil {
		a.unproven.Remove(c.element)
		c.element = nil
	}
	if c.proven {
		if a.users[c.user]--; a.users[c.user] == 0 {
			delete(a.users, c.user)
		}
	}
}

// connection is an admitted connection.
type connection struct {
	net.Conn
	admission *admission

	// Guarded by admission.mu.
	element *list.Element
	proven  bool
	user    string
	gone    bool
}

// Close closes the connection and frees its slot.
func (c *connection) Close() error {
	c.admission.mu.Lock()
	c.admission.forget(c)
	c.admission.mu.Unlock()
	return c.Conn.Close()
}

// prove marks the connection as proven by an authorized request of user. It returns false if the user has perUser proven
// connections already.
func (c *connection) prove(user string) bool {
	if c == nil {
		return true
	}
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.proven || c.gone {
		return true
	}
	if a.perUser > 0 && a.users[user] >= a.perUser {
		return false
	}
	a.users[user]++
	a.unproven.Remove(c.element)
	c.proven, c.user, c.element = true, user, nil
	return true
}

type connectionKey struct{}

// withConnection stores the connection in the context of its requests.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*connection)
	return context.WithValue(ctx, connectionKey{}, c)
}

// connectionOf returns the connection of a request, or nil if it did not come through an admission.
func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}
