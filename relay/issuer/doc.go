// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package issuer makes the relay's serving certificate and the authority that signs it, keeps both in a Secret and renews
// them. It knows X.509 and one Secret. It must not know clients, gateways or what the relay serves, and it never writes a
// Secret that it did not write itself.
package issuer
