// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "errors"

// ErrRefused means that the host refused the content of a write and would refuse it again. It is not used for a program that
// is missing, hangs or is interrupted, or for a lock that is held.
var ErrRefused = errors.New("refused as invalid")
