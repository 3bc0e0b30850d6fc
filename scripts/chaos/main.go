// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func main() {
	p := plan{warmUp: 179}
	flag.Uint64Var(&p.Seed, "seed", rand.Uint64N(1_000_000), "seed of the order of faults: the same seed gives the same order")
	flag.DurationVar(&p.Duration, "duration", 5*time.Minute, "how long to inject faults")
	flag.StringVar(&p.Dataplane, "dataplane", planeIPTables, "the gateway's data plane: iptables or nftables")
	flag.StringVar(&p.Variant, "iptables", "nf_tables", "variant of the gateway's iptables: nf_tables or legacy")
	soak := flag.Bool("soak", false, "no faults, but many changes of the cluster, and a check for growth")
	only := flag.String("only", "", "names of the only faults to inject, separated by commas")
	list := flag.Bool("list", false, "print the names of all faults and exit")
	flag.IntVar(&p.pairs, "pairs", 3, "number of faults after which two come at once; 0 means never")
	out := flag.String("out", "scripts/chaos/results", "folder for the report")
	readme := flag.String("readme", "", "README.md in which the report replaces the last one")
	flag.Parse()
	if p.Dataplane != planeIPTables && p.Dataplane != planeNFTables {
		fmt.Fprintf(os.Stderr, "chaos: -dataplane %q is neither iptables nor nftables\n", p.Dataplane)
		os.Exit(2)
	}
	if *list {
		fmt.Println(strings.Join(choose(p.applies), "\n"))
		return
	}
	p.name, p.tempo, p.Growth = "chaos", tempo{pause: [2]time.Duration{time.Second, 3 * time.Second}, hold: [2]time.Duration{2 * time.Second, 8 * time.Second}}, bounds
	p.faults = choose(p.applies)
	if *soak {
		p.name, p.Growth.Slope = "soak", 0.05
		p.faults = choose(func(f fault) bool { return f.churn })
	}
	if *only != "" {
		p.faults = strings.Split(*only, ",")
	}
	status, err := lab.Run(func() int {
		fmt.Printf("%s: seed %d, %v, %s\n", p.name, p.Seed, p.Duration, p.describe())
		report, err := run(p, func(line string) { fmt.Println(line) })
		if err == nil {
			err = report.write(*out, *readme)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p.name, err)
			return 1
		}
		return min(len(report.Verdict), 1)
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.name, err)
	}
	os.Exit(status)
}
