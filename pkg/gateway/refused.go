// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "errors"

// ErrRefused says that the host did not take what was written for what it says: the same again would be refused again. A
// program that is missing, hangs or is interrupted, and a lock that is held, are about nothing in particular.
var ErrRefused = errors.New("refused for what it says")
