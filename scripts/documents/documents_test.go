// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTree checks the documents of this project, all but the commands that they name: those need the programs.
func TestTree(t *testing.T) {
	const root = "../.."
	listed, err := markdown(root)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := load(root, listed)
	if err != nil {
		t.Fatal(err)
	}
	if len(documents) < 10 {
		t.Errorf("%d documents, want at least 10", len(documents))
	}
	for _, fault := range links(root, documents) {
		t.Error(fault)
	}
	tests, err := declaredIn(root)
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range documents {
		for _, fault := range slices.Concat(paths(root, path, text), examples(path, text), tests.check(path, text)) {
			t.Error(fault)
		}
	}
	if length := strings.Count(documents["README.md"], "\n"); length > 150 {
		t.Errorf("README.md has %d lines, want at most 150: move what users look up into the folder that it is about", length)
	}
}

// expect fails the test unless there is one fault, or none if want is "".
func expect(t *testing.T, have []string, want string) {
	t.Helper()
	var all []string
	if want != "" {
		all = []string{want}
	}
	if !slices.Equal(have, all) {
		t.Errorf("faults %q, want %q", have, all)
	}
}

func TestLinks(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"systemd/README.md", "systemd/picture.svg", "README.md"} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const gateway = "# The gateway\n\n## `auto`, or not: Who's first?\n## Twice\n## Twice\n```sh\n# no heading\n```\n<a id=\"made\"></a>\n## [Linked](https://example.com) under_score\n"
	for name, test := range map[string]struct{ text, want string }{
		"a file":                   {"[a](systemd/README.md)", ""},
		"a folder":                 {"[a](systemd)", ""},
		"a picture":                {"![a](systemd/picture.svg)", ""},
		"the web":                  {"[a](https://example.com/no#no)", ""},
		"no file":                  {"one\n[a](systemd/no.md)", "README.md:2: systemd/no.md: there is no systemd/no.md"},
		"no picture":               {"![a](no.svg)", "README.md:1: no.svg: there is no no.svg"},
		"the second of two":        {"[a](systemd) and [b](x)", "README.md:1: x: there is no x"},
		"out of the tree":          {"[a](../README.md)", "README.md:1: ../README.md leads out of the tree"},
		"a heading":                {"[a](systemd/README.md#auto-or-not-whos-first)", ""},
		"a heading that is linked": {"[a](systemd/README.md#linked-under_score)", ""},
		"the second of its name":   {"[a](systemd/README.md#twice-1)", ""},
		"a third that is not":      {"[a](systemd/README.md#twice-2)", "README.md:1: systemd/README.md#twice-2: systemd/README.md has no heading for #twice-2"},
		"a comment in a block":     {"[a](systemd/README.md#no-heading)", "README.md:1: systemd/README.md#no-heading: systemd/README.md has no heading for #no-heading"},
		"an anchor by hand":        {"[a](systemd/README.md#made)", ""},
		"a heading here":           {"[a](#here)\n# Here", ""},
		"no heading here":          {"[a](#there)\n# Here", "README.md:1: #there: README.md has no heading for #there"},
		"broken text":              {"[a\nb](no.md)", "README.md:2: no.md: there is no no.md"},
		"in a block":               {"```\n[a](no.md)\n```", ""},
		"in a span":                {"`[a](no.md)`", ""},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, links(root, map[string]string{"README.md": test.text, "systemd/README.md": gateway}), test.want)
		})
	}
}

// help is the shape of what cobra prints.
const help = `smartnatd does it. Without a command it runs.

Usage:
  smartnatd [flags]

Available Commands:
  check       Check it
  status      Show it
  completion  Print it

Flags:
      --config file     the config file
  -h, --help            help for smartnatd
  -o, --output format   table or json
      --watch           repeat it

Global Flags:
      --everywhere   with all commands
`

func TestCommands(t *testing.T) {
	program := parse(help)
	for name := range program.commands {
		program.commands[name] = parse("Flags:\n      --" + name + "-only   b\n")
	}
	shell := parse("Available Commands:\n  bash  print it\n\nFlags:\n")
	shell.commands["bash"] = parse("")
	program.commands["completion"] = shell
	known := knowledge{
		targets:  targets("help: ## list\nVERSION := 1\ntest-unit: build\n\techo check:\n"),
		programs: map[string]*command{"smartnatd": program, called("kubectl-smartnat"): parse("\nAvailable Commands:\n  enroll  Enroll\n\nFlags:\n")},
	}
	known.programs["kubectl smartnat"].commands["enroll"] = parse("")
	for name, test := range map[string]struct{ text, want string }{
		"the program":                 {"`smartnatd`", ""},
		"a command":                   {"`smartnatd check` of `smartnatd.service`", ""},
		"no command":                  {"a\n`smartnatd chekc`", "x.md:2: `smartnatd chekc`: there is no command chekc"},
		"two levels":                  {"`smartnatd completion bash`", ""},
		"no second level":             {"`smartnatd completion dash`", "x.md:1: `smartnatd completion dash`: there is no command dash"},
		"a placeholder":               {"`smartnatd COMMAND`", ""},
		"flags":                       {"`smartnatd --config FILE -o json --watch --everywhere`", ""},
		"a value that looks like one": {"`smartnatd --config chekc check`", ""},
		"a value after an equal sign": {"`smartnatd --config=chekc check`", ""},
		"no flag":                     {"`smartnatd --confg FILE`", "x.md:1: `smartnatd --confg FILE`: there is no flag --confg"},
		"no short flag":               {"`smartnatd -x`", "x.md:1: `smartnatd -x`: there is no flag -x"},
		"a flag of another command":   {"`smartnatd check --status-only`", "x.md:1: `smartnatd check --status-only`: there is no flag --status-only"},
		"an optional flag":            {"`smartnatd [--watch]`", ""},
		"a plugin":                    {"`kubectl smartnat enroll gateway-1`", ""},
		"no command of a plugin":      {"`kubectl smartnat enrol gateway-1`", "x.md:1: `kubectl smartnat enrol gateway-1`: there is no command enrol"},
		"another program":             {"`kubectl get --no-such` `iptables --no`", ""},
		"a target":                    {"`make test-unit PKG=./pkg/calc help`", ""},
		"no target":                   {"`make tset`", "x.md:1: `make tset`: the Makefile has no target tset"},
		"a variable is no target":     {"`make VERSION`", ""},
		"a step is no target":         {"`make check`", "x.md:1: `make check`: the Makefile has no target check"},
		"a flag alone":                {"`--watch` and `--check-only=false`", ""},
		"no flag alone":               {"`--wacth`", "x.md:1: `--wacth`: no program of this project has this flag"},
		"another program's flag":      {"`--cluster-cidr`", ""},
		"in prose":                    {"smartnatd chekc", ""},
		"a block":                     {"```sh\nA=1 sudo smartnatd chekc  # smartnatd none\n```", "x.md:2: `smartnatd chekc`: there is no command chekc"},
		"the end of a pipe":           {"```sh\nkubectl get x \\\n  | smartnatd chekc -f - && true\n```", "x.md:3: `smartnatd chekc -f -`: there is no command chekc"},
		"behind a prompt":             {"```console\n# smartnatd chekc\n```", "x.md:2: `smartnatd chekc`: there is no command chekc"},
		"a block of YAML":             {"```yaml\nsmartnatd chekc\n```", ""},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, known.check("x.md", test.text), test.want)
		})
	}
}

func TestExamples(t *testing.T) {
	const mapping = "apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: Mapping\nmetadata: {name: echo}\n"
	const spec = "spec:\n  addresses: [198.51.100.10]\n  serviceName: echo\n"
	for name, test := range map[string]struct{ text, want string }{
		"a Mapping":            {"```yaml\n" + mapping + spec + "  ports: [{port: 80}]\n```", ""},
		"an unknown field":     {"```yaml\n" + mapping + spec + "  ports: [{prot: 80}]\n```", `unknown field "prot"`},
		"a bad value":          {"a\n\n```yaml\n" + mapping + spec + "  ports: [{port: 80, endPort: 90}]\n```", "x.md:4: the Mapping: spec.ports[0].endPort"},
		"only a spec":          {"```yaml\n" + spec + "  ports: [{port: 80}]\n```", ""},
		"only a bad spec":      {"```yaml\n" + spec + "  ports: []\n```", "spec.ports"},
		"the second of two":    {"```yaml\napiVersion: v1\nkind: Service\n---\n" + mapping + spec + "```", "spec.ports"},
		"the second block":     {"```yaml\nkind: Service\n```\n```yaml\n" + mapping + spec + "```", "x.md:5: "},
		"a spec of a Service":  {"```yaml\nspec:\n  selector: {app: echo}\n```", ""},
		"a block of another":   {"```sh\n" + mapping + "```", ""},
		"in a here-document":   {"```sh\nkubectl apply -f - <<END\n" + mapping + "END\n```", ""},
		"a config of smartnat": {"```yaml\nuplinks:\n- {interface: eth0}\n```", ""},
	} {
		t.Run(name, func(t *testing.T) {
			faults := examples("x.md", test.text)
			if test.want == "" && len(faults) > 0 || test.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], test.want)) {
				t.Errorf("faults %q, want %q", faults, test.want)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"scripts/lab/cmd", "relay/server"} {
		if err := os.MkdirAll(filepath.Join(root, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "scripts/image.sh"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ path, text, want string }{
		"a script":          {"README.md", "run `scripts/image.sh`.", ""},
		"no script":         {"README.md", "a\nrun `scripts/enroll.sh --revoke`", "README.md:2: there is no scripts/enroll.sh"},
		"in a block":        {"README.md", "```sh\nscripts/enroll.sh\n```", "README.md:2: there is no scripts/enroll.sh"},
		"at the end":        {"README.md", "It is in scripts/lab.", ""},
		"packages":          {"README.md", "go test ./scripts/lab/...", ""},
		"no packages":       {"README.md", "go test ./pkg/none/...", "README.md:1: there is no ./pkg/none/"},
		"next to it":        {"scripts/lab/README.md", "the folder cmd/ here", ""},
		"below something":   {"README.md", "/etc/scripts/none and lab/scripts/none", ""},
		"the end of a link": {"README.md", "[a](scripts/none)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, paths(root, test.path, test.text), test.want)
		})
	}
}

func TestTests(t *testing.T) {
	tests := declared{map[string][]string{}, map[string]map[string]bool{}}
	tests.add("pkg/a", "func TestOne(t *testing.T) {\n\tt.Run(\"a case\", f)\n\tt.Run(\"part\", f)\n}\n")
	tests.add("pkg/b", "func TestOne(t *testing.T) {}\nfunc TestTwo(t *testing.T) { t.Run(\"other\", f) }\n// func TestThree(t *testing.T)\n")
	for name, test := range map[string]struct{ text, want string }{
		"a test":                {"see `TestOne`, (TestTwo)", ""},
		"no test":               {"one\n`TestThree`", "README.md:2: there is no test TestThree"},
		"a subtest":             {"`TestOne/a_case`", ""},
		"a subtest of a part":   {"`TestOne/part/a_case`", ""},
		"no subtest":            {"`TestTwo/part`", "README.md:1: there is no test TestTwo/part"},
		"one of another folder": {"`TestOne/part/other`", "README.md:1: there is no test TestOne/part/other"},
		"some tests":            {"`TestO…`", ""},
		"none of these":         {"`TestU…`", "README.md:1: there is no test TestU…"},
		"an example":            {"```go\nfunc TestThree(t *testing.T)\n```", ""},
		"none of ours":          {"Testing, aTestThree", ""},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, tests.check("README.md", test.text), test.want)
		})
	}
}
