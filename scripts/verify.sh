#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Checks what a reviewer would otherwise have to: that nothing generated is stale, that go.mod is tidy, that code, scripts and
# file headers keep to the rules. It changes nothing, goes through all checks and fails at the end if one did.
#   verify.sh           all checks
#   verify.sh CHECK...  some of them, by the names of the functions below
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

# files PATTERN...: the tree's files, also those not committed yet.
files() { git ls-files --cached --others --exclude-standard --deduplicate -- "$@" | while read -r file; do
	[[ ! -e $file ]] || echo "$file"
done; }

codegen() { # what is generated from apis/ is what would be generated now
	mkdir "$tmp/tree"
	files . | tar -c -T - | tar -x -C "$tmp/tree"
	scripts/codegen/update.sh "$tmp/tree" >/dev/null
	local stale=0
	for folder in apis generated; do
		diff -ru "$folder" "$tmp/tree/$folder" || stale=1
	done
	((stale == 0)) || {
		echo "stale: run make update"
		return 1
	}
}

tidy() { # go.mod and go.sum of every module hold what is needed and nothing else
	local status=0
	while read -r mod; do
		echo "  $mod"
		go -C "$(dirname "$mod")" mod tidy -diff || status=1
	done < <(files 'go.mod' '*/go.mod')
	return $status
}

format() { # gofmt
	local unformatted
	unformatted="$(files '*.go' | xargs gofmt -s -l)"
	[[ -z $unformatted ]] || {
		echo "$unformatted"
		return 1
	}
}

vet() { # what go vet finds
	go vet ./...
}

lint() { # golangci-lint, the walls between packages included
	local bin
	bin="$(scripts/tools/build.sh lint)"
	"$bin/golangci-lint" config verify
	"$bin/golangci-lint" run --allow-serial-runners ./...
}

headers() { # every source file says whose it is and under which licence
	local status=0 file
	while read -r file; do
		# Golden files and objects under testdata are what programs print.
		[[ $file != *testdata/* ]] || continue
		if ! head -n 5 "$file" | grep -q 'Copyright The SmartNat Authors\.' ||
			! head -n 5 "$file" | grep -q 'SPDX-License-Identifier: Apache-2\.0'; then
			echo "$file: begins without copyright and licence"
			status=1
		fi
	done < <(files '*.go' '*.sh' '*.yaml' '*.yml' '*Dockerfile' '*Makefile' '*.service' '*.conf' .ci/run)
	return $status
}

shell() { # what shellcheck finds
	local shell
	mapfile -t shell < <(files '*.sh' .ci/run)
	shellcheck "${shell[@]}"
}

layout() { # the visible top level is exactly what it is meant to be
	diff <(printf '%s\n' LICENSE Makefile README.md apis cmd generated go.mod go.sum pkg relay scripts systemd | LC_ALL=C sort) \
		<(files . | cut -d/ -f1 | grep -v '^\.' | LC_ALL=C sort -u)
}

checks=("$@")
((${#checks[@]} > 0)) || checks=(layout headers format shell tidy codegen vet lint)

failed=()
for check in "${checks[@]}"; do
	if [[ $(type -t "$check") != function || $check == files ]]; then
		echo "verify.sh: no check named '$check'" >&2
		exit 2
	fi
	echo "verify: $check"
	# In a shell of its own, so that its set -e is not switched off by the condition around it.
	status=0
	(set -e; "$check") & wait $! || status=$?
	((status == 0)) || failed+=("$check")
done
if ((${#failed[@]} > 0)); then
	echo "verify: FAILED: ${failed[*]}" >&2
	exit 1
fi
echo "verify: ${#checks[@]} checks passed"
