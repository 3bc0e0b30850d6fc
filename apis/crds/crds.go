// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package crds embeds the CustomResourceDefinitions as they are installed, for programs that serve their schema.
package crds

import _ "embed" // for what follows

// Mapping is the CustomResourceDefinition of Mappings, in YAML.
//
//go:embed smartnat.aureacentral.com_mappings.yaml
var Mapping []byte

// PortGrant is the CustomResourceDefinition of PortGrants, in YAML.
//
//go:embed smartnat.aureacentral.com_portgrants.yaml
var PortGrant []byte

// All returns all CustomResourceDefinitions, in YAML.
func All() [][]byte { return [][]byte{Mapping, PortGrant} }
