// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package systemd reports the state of a service to systemd: status, readiness, heartbeats of the watchdog and stored sockets. It
// writes to the socket of sd_notify(3) and nothing else, and it does not know what the service does. The library's SdNotify has
// no timeout and passes no open files.
package systemd
