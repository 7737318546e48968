#!/usr/bin/env bash
# Breaks the code in ways that the tests must notice. Each patch in
# testdata/mutants is applied to a copy of the tree, and the tests are run until
# one fails; a mutant that survives fails the command. A line "# TestName" in a patch
# names the test that is to notice it, which is run before all others.
#
#	scripts/mutants.sh [NAME ...]
set -euo pipefail
cd "$(dirname "$0")/.."
patches=$PWD/testdata/mutants
[ $# -gt 0 ] || set -- $(basename -s .patch "$patches"/*.patch)

passes() {
	local name file
	for name in $(sed -n 's/^# \(Test[A-Za-z0-9_]*\)$/\1/p' "$1"); do
		file=$(grep -rl --include='*_test.go' "^func $name(" . | head -1)
		[ -z "$file" ] || go test -short -timeout 5m -run "^$name\$" "$(dirname "$file")" || return
	done
	go test -short -failfast -timeout 10m ./internal/... ./kvrafttest/... ./http .
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
survived=0
tree=$work/tree # the same for all: so much is compiled once
for name in "$@"; do
	mkdir "$tree"
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
	(cd "$tree" && git apply "$patches/$name.patch" && go build ./...)
	if (cd "$tree" && passes "$patches/$name.patch") >"$work/out" 2>&1; then
		echo "SURVIVED $name"
		survived=$((survived + 1))
	else
		caught=$(grep -oE -m1 '^ *--- FAIL: [^ ]+|^panic: .*|^fatal error: .*' "$work/out" || head -1 "$work/out")
		echo "caught   $name: ${caught#*--- FAIL: }"
	fi
	rm -rf "$tree"
done
[ "$survived" = 0 ]
