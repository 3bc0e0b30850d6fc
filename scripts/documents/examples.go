// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

var (
	isMapping = regexp.MustCompile(`(?m)^kind: Mapping$`)
	isSpec    = regexp.MustCompile(`(?m)\Aspec:\n(?:.*\n)*  serviceName: `)
)

// head completes an example that shows only the spec of a Mapping.
const head = "apiVersion: " + v1alpha1.GroupName + "/v1alpha1\nkind: Mapping\nmetadata: {name: example}\n"

// examples returns a fault for each Mapping in a block of YAML that a cluster would refuse.
func examples(path, text string) []string {
	var faults []string
	begin, block := 0, ""
	check := func() {
		for object := range strings.SplitSeq(block, "\n---\n") {
			if isSpec.MatchString(object) {
				object = head + object
			}
			if !isMapping.MatchString(object) {
				continue
			}
			if fault := refused(object); fault != "" {
				faults = append(faults, fmt.Sprintf("%s:%d: the Mapping: %s", path, begin, fault))
			}
		}
		block = ""
	}
	last := 0
	for _, l := range lines(text) {
		if !l.code || l.language != "yaml" || l.number != last+1 {
			check()
		}
		if l.code && l.language == "yaml" {
			if block == "" {
				begin = l.number
			}
			block += l.text + "\n"
		}
		last = l.number
	}
	check()
	return faults
}

// refused returns why a cluster would refuse the Mapping, or "".
func refused(object string) string {
	var mapping v1alpha1.Mapping
	if err := yaml.UnmarshalStrict([]byte(object), &mapping); err != nil {
		return err.Error()
	}
	if err := validation.ValidateMapping(&mapping).ToAggregate(); err != nil {
		return err.Error()
	}
	return ""
}
