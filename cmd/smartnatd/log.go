// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
)

func newLogger(cfg config.Log, out io.Writer) (*logrus.Logger, error) {
	level, err := logrus.ParseLevel(cfg.Level)
	if err != nil {
		return nil, usageError{fmt.Errorf("log.level: %w", err)}
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(level)
	if cfg.Format == "json" {
		log.SetFormatter(&logrus.JSONFormatter{})
	}
	return log, nil
}
