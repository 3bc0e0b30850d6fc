// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package packages tests the files that the packages install, as far as possible before the packages are built; test.sh does the rest.
package packages

import (
	"crypto/sha256"
	"encoding"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// delivered documents all keys, installed becomes /etc/smartnat.yaml.
	delivered = "../../systemd/smartnat.yaml"
	installed = "smartnat.yaml"
)

func TestDeliveredConfigIsValid(t *testing.T) {
	for _, path := range []string{delivered, installed} {
		cfg, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Source.Relay == nil {
			t.Errorf("%s has no relay", path)
		}
	}
}

// TestInstalledConfigStays checks that /etc/smartnat.yaml does not change: if it did, dpkg would ask each operator who edited it what to
// do, in the middle of an upgrade. New keys belong only into the reference.
func TestInstalledConfigStays(t *testing.T) {
	text, err := os.ReadFile(installed)
	if err != nil {
		t.Fatal(err)
	}
	const want = "866525c50a53b61966846db213196006dbe9c4301484eac58cb9555f443fef27"
	if got := fmt.Sprintf("%x", sha256.Sum256(text)); got != want {
		t.Errorf("the file changed (SHA-256 %s): upgrades would ask about it", got)
	}
	// enroll replaces this file, and no other.
	if !strings.Contains(read(t, "../../cmd/smartnatd/enroll.go"), `packagedConfig = "`+want+`"`) {
		t.Error("smartnatd enroll takes another file for the one of the packages")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCommentsInDeliveredConfigAreTrue checks that each commented-out key shows its default, or a valid example if it has none.
func TestCommentsInDeliveredConfigAreTrue(t *testing.T) {
	text, err := os.ReadFile(delivered)
	if err != nil {
		t.Fatal(err)
	}
	// Prose has one space after its "#"; keys have none, or their indentation.
	commentedKey := regexp.MustCompile(`(?m)^( *)#( {2,}|[^ \n])`)
	path := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(path, commentedKey.ReplaceAll(text, []byte("$1$2")), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	// The only error is that all three sources are set at once.
	if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "source: ") || !strings.Contains(err.Error(), "only one") {
		t.Errorf("want one error, about source, got: %v", err)
	}
	for _, key := range keys(reflect.TypeFor[config.Config]()) {
		if !regexp.MustCompile(`\b` + key + `:`).Match(text) {
			t.Errorf("%s is not in %s", key, delivered)
		}
	}
	if len(cfg.Uplinks) == 0 || len(cfg.ServiceRoutes) == 0 || len(cfg.StandbyAddresses) == 0 ||
		len(cfg.ServedAddresses) == 0 || len(cfg.BackendNetworks) == 0 || len(cfg.InsideNetworks) == 0 ||
		len(cfg.Helpers.FTP) == 0 || len(cfg.Helpers.TFTP) == 0 || len(cfg.HA.Links) == 0 || cfg.HA.Hook == "" || cfg.Node == cfg.Instance ||
		len(cfg.MasqueradeAddresses) == 0 || len(cfg.PinnedGrants) == 0 || len(cfg.Announce.Networks) == 0 {
		t.Errorf("examples are missing: %+v", cfg)
	}
	examples := cmpopts.IgnoreFields(config.Config{}, "Instance", "Node", "Source", "Uplinks", "ServiceRoutes", "StandbyAddresses", "ServedAddresses",
		"BackendNetworks", "InsideNetworks", "Helpers", "MasqueradeAddresses", "PinnedGrants")
	examplesOfHA := cmpopts.IgnoreFields(config.HA{}, "SyncLink", "SyncAddress", "Peer", "Links", "Hook")
	examplesOfAnnounce := cmpopts.IgnoreFields(config.Announce{}, "Networks")
	if diff := cmp.Diff(config.Default(), cfg, examples, examplesOfHA, examplesOfAnnounce); diff != "" {
		t.Errorf("the file shows other defaults (-default +shown):\n%s", diff)
	}
}

// keys returns the last parts of the names of all keys, by the rule in the comment of config.Config.
func keys(group reflect.Type) []string {
	var all []string
	for i := range group.NumField() {
		field := group.Field(i)
		name, _ := utf8.DecodeRuneInString(field.Name)
		key := string(unicode.ToLower(name)) + field.Name[1:]
		if tag := field.Tag.Get("mapstructure"); tag != "" && tag != "-" {
			key = tag
		} else if tag == "-" && field.Name != "Uplinks" {
			continue
		}
		all = append(all, key)
		typ := field.Type
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() == reflect.Struct && !reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			all = append(all, keys(typ)...)
		}
	}
	return all
}

// TestExposureOfTheUnit limits what smartnatd can do to the host, as systemd rates it (systemd-analyze(1), security).
func TestExposureOfTheUnit(t *testing.T) {
	testenv.RequireTool(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=23", "../../systemd/smartnatd.service").CombinedOutput()
	if err != nil {
		t.Errorf("more than 2.3: %v\n%s", err, out)
	}
}

// TestReadmeShowsTheConfigOfTheDemo checks that README.md shows the config that the demo and the end-to-end tests use.
func TestReadmeShowsTheConfigOfTheDemo(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```yaml\n"+lab.GatewayConfig+"```\n") {
		t.Errorf("README.md does not show the demo's config:\n%s", lab.GatewayConfig)
	}
}
