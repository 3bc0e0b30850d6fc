// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command helm renders a chart with the engine of Helm, as `helm template --include-crds` does, for tests: helm itself takes minutes
// to build.
//
//	helm NAMESPACE CHART <VALUES
package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

func main() {
	if err := render(os.Args, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "helm: %v\n", err)
		os.Exit(1)
	}
}

func render(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("want a namespace and a chart")
	}
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	given, err := common.ReadValues(text)
	if err != nil {
		return err
	}
	chart, err := loader.LoadDir(args[2])
	if err != nil {
		return err
	}
	// It validates the values against the schema of the chart.
	values, err := util.ToRenderValues(chart, given, common.ReleaseOptions{Name: chart.Name(), Namespace: args[1], IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return err
	}
	rendered, err := engine.Render(chart, values)
	if err != nil {
		return err
	}
	for _, crd := range chart.CRDObjects() {
		rendered[crd.Name] = string(crd.File.Data)
	}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if _, err := fmt.Fprintf(out, "---\n%s\n", strings.TrimSpace(rendered[name])); err != nil {
			return err
		}
	}
	return nil
}
