// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package page shows a gateway in a browser on the same host: uplinks, Mappings with their traffic, findings, and a form that
// explains a connection. The page is one file without assets from elsewhere.
//
// It only reads, asks the same questions as the commands of an operator, and answers only requests that stay on the host.
package page
