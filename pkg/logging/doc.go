// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package logging configures the log of smartnatd: text or JSON, plain or for the journal of systemd, without control characters,
// and with repeated errors backed off. It opens no file and knows no config, and callers that only log do not need it.
package logging
