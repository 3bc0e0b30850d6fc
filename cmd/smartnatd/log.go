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
	log := logrus.New()
	log.SetOutput(out)
	return log, configureLogger(log, cfg)
}

// configureLogger changes a logger while it is used.
func configureLogger(log *logrus.Logger, cfg config.Log) error {
	level, err := logrus.ParseLevel(cfg.Level)
	if err != nil {
		return usageError{fmt.Errorf("log.level: %w", err)}
	}
	log.SetLevel(level)
	if cfg.Format == "json" {
		log.SetFormatter(&logrus.JSONFormatter{})
	} else {
		log.SetFormatter(&logrus.TextFormatter{})
	}
	return nil
}
