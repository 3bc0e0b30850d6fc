#!/usr/bin/env bash
# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs the checks that a reviewer would otherwise have to do: generated code is current, go.mod is tidy, code, scripts and file headers
# follow the rules, the programs have no known vulnerability, and builds are reproducible. It changes nothing, runs all checks and fails
# at the end if one of them failed.
#   verify.sh           all checks
#   verify.sh CHECK...  some of them, by the names of the functions below
# The last line names checks that could not run. If CI is set they count as failures, unless VERIFY_NOT_RUN names them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

# files PATTERN...: prints the files of the tree, even those that are not committed yet.
files() { git ls-files --cached --others --exclude-standard --deduplicate -- "$@" | while read -r file; do
	[[ ! -e $file ]] || echo "$file"
done; }

# copy FOLDER: copies the tree as it is, without git's own files.
copy() {
	mkdir -p "$1"
	files . | tar -c -T - | tar -x -C "$1"
}

# not_run WHY: ends a check that cannot run here.
not_run() {
	echo "  NOT RUN: $1" >&2
	exit 77
}

codegen() { # the code generated from apis/ is current
	copy "$tmp/tree"
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

tidy() { # go mod tidy has nothing to change in any module
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

vet() { # go vet
	go vet ./...
}

lint() { # golangci-lint, including the walls between packages
	local bin
	bin="$(scripts/tools/build.sh lint)"
	"$bin/golangci-lint" config verify
	"$bin/golangci-lint" run --allow-serial-runners ./...
}

headers() { # every source file begins with copyright and licence
	local status=0 file
	while read -r file; do
		# Files under testdata are output of programs.
		[[ $file != *testdata/* ]] || continue
		if ! head -n 5 "$file" | grep -q 'Copyright The SmartNat Authors\.' ||
			! head -n 5 "$file" | grep -q 'SPDX-License-Identifier: Apache-2\.0'; then
			echo "$file: no copyright and licence at the beginning"
			status=1
		fi
	done < <(files '*.go' '*.sh' '*.yaml' '*.yml' '*Dockerfile' '*Makefile' '*.service' '*.conf' .ci/run)
	return $status
}

words() { # phrases and log messages that the project does not write
	go run ./scripts/words
}

documents() { # links between documents, and the commands, flags and targets that they name, exist
	go run ./scripts/documents
}

subjects() { # subjects of commits are "area: imperative", with at most 72 characters
	# The last commit before the rule, or SUBJECTS_SINCE.
	local since="${SUBJECTS_SINCE:-c8169452b425c742ea0ec1460885b763bbd0cf86}" commits
	if git merge-base --is-ancestor "$since" HEAD 2>/dev/null; then
		commits=("$since..HEAD")
	elif git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
		echo "  ${since:0:12} is not in the history of this clone: checking the last commit only"
		commits=(-1)
	else
		echo "  no commits to check"
		return
	fi
	local LC_ALL=C.UTF-8 status=0 commit subject fault
	# Verbs that look like participles, and are none.
	local verbs='bring|embed|exceed|feed|need|ping|proceed|seed|shed|speed'
	while read -r commit subject; do
		fault=""
		if [[ ! $subject =~ ^[A-Za-z0-9_.*{}/,\ -]+:\ [a-z] ]]; then
			fault='want "area: imperative", such as "pkg/calc: reject ports of the host"'
		elif ((${#subject} > 72)); then
			fault="${#subject} characters, want at most 72"
		elif [[ $subject =~ ^[^:]+:\ ([a-z]+(ed|ing))\  && ! ${BASH_REMATCH[1]} =~ ^($verbs)$ ]]; then
			fault='want the imperative: "add", not "added" or "adding"'
		fi
		[[ -z $fault ]] || {
			echo "$commit: $subject: $fault"
			status=1
		}
	done < <(git log --no-merges --format='%h %s' "${commits[@]}")
	return $status
}

shell() { # lint of shell scripts
	local shell
	mapfile -t shell < <(files '*.sh' .ci/run)
	shellcheck "${shell[@]}"
}

layout() { # the top level has exactly these visible entries
	diff <(printf '%s\n' LICENSE Makefile README.md apis cmd generated go.mod go.sum pkg relay scripts systemd | LC_ALL=C sort) \
		<(files . | cut -d/ -f1 | grep -v '^\.' | LC_ALL=C sort -u)
}

# vulndb FOLDER: builds the Go project's vulnerability database from its module, as far as that is published.
vulndb() {
	local module
	module="$(go -C "$tmp" mod download -json golang.org/x/vulndb@latest)" || return 1
	(cd "$tmp" && go run golang.org/x/vulndb/cmd/indexdb@latest \
		-vulns "$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$module")/data/osv" -out "$1") >&2 || return 1
	sed -n 's/^\t"Version": "\(.*\)",$/  cannot read vuln.go.dev, using golang.org\/x\/vulndb \1/p' <<<"$module"
}

# vulnerabilities fails if the code calls a function with a vulnerability known to the Go project, in a dependency or in the Go standard
# library. GOVULNDB sets another database.
vulnerabilities() {
	local bin status=0 out="$tmp/vulnerabilities"
	bin="$(scripts/tools/build.sh govulncheck)"
	scan() { GOTOOLCHAIN=auto "$bin/govulncheck" "$@" ./cmd/... >"$out" 2>&1; }
	scan ${GOVULNDB:+-db "$GOVULNDB"} || status=$?
	if ((status != 0)) && [[ -z ${GOVULNDB:-} ]] && grep -q 'fetching vulnerabilities' "$out" && vulndb "$tmp/vulndb"; then
		status=0
		scan -db "file://$tmp/vulndb" || status=$?
	fi
	if ((status != 0)) && grep -q 'fetching vulnerabilities' "$out"; then
		not_run "cannot read the vulnerability database: $(tail -n 1 "$out")"
	fi
	sed 's/^/  /' "$out"
	return $status
}

reproducible() { # programs and packages are identical for another folder, other caches, file times and permissions
	local architecture one="$tmp/one" other="$tmp/a longer way/to another" tree
	architecture="$(go env GOARCH)"
	copy "$one"
	copy "$other"
	find "$other" -exec touch -h -d 2001-02-03 {} +
	chmod -R go-rwx "$other"
	ln -s "$(go env GOMODCACHE)" "$tmp/modules"
	export VERSION=v0.0.0-verified SOURCE_DATE_EPOCH=1000000000
	for tree in "$one" "$other"; do
		(
			cd "$tree"
			if [[ $tree == "$other" ]]; then
				umask 077
				export GOCACHE="$tmp/cache" GOMODCACHE="$tmp/modules" TZ=Pacific/Chatham
			fi
			make build
			scripts/packages/build.sh "$architecture"
			sha256sum bin/* dist/* >"$tree.sums"
		) | sed 's/^/  /'
	done
	diff "$one.sums" "$other.sums"
}

release() { # two builds of a release, in different folders, are identical
	buildah info >/dev/null 2>&1 || not_run "buildah is not installed, or may not build images here"
	local tree
	export SOURCE_DATE_EPOCH=1000000000
	for tree in "$tmp/release" "$tmp/a longer way/to a release"; do
		copy "$tree"
		[[ $tree == "$tmp/release" ]] || find "$tree" -exec touch -h -d 2001-02-03 {} +
		(cd "$tree" && scripts/release.sh)
		(cd "$tree/dist" && sha256sum --check --quiet SHA256SUMS)
	done
	diff "$tmp/release/dist/SHA256SUMS" "$tree/dist/SHA256SUMS"
	sed 's/^/  /' "$tree/dist/SHA256SUMS"
}

checks=("$@")
((${#checks[@]} > 0)) || checks=(layout headers format words documents subjects shell tidy codegen vet lint vulnerabilities reproducible release)

failed=() missed=()
for check in "${checks[@]}"; do
	if [[ $(type -t "$check") != function || $check =~ ^(files|copy|not_run|vulndb)$ ]]; then
		echo "verify.sh: no check named '$check'" >&2
		exit 2
	fi
	echo "verify: $check"
	# Use a subshell: the condition around it would switch off set -e.
	status=0
	(set -e; "$check") & wait $! || status=$?
	case $status in
	0) ;;
	77)
		missed+=("$check")
		[[ -z ${CI:-} || " ${VERIFY_NOT_RUN:-} " == *" $check "* ]] || failed+=("$check (not run)")
		;;
	*) failed+=("$check") ;;
	esac
done
if ((${#failed[@]} > 0)); then
	echo "verify: FAILED: ${failed[*]}" >&2
	exit 1
fi
if ((${#missed[@]} > 0)); then
	echo "verify: $((${#checks[@]} - ${#missed[@]})) checks passed, NOT RUN: ${missed[*]}" >&2
	exit 0
fi
echo "verify: ${#checks[@]} checks passed"
