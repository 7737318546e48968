#!/usr/bin/env bash
# Runs the benchmarks of a revision and of this tree in turn, COUNT times, and compares
# them. Usage: benchcompare.sh REF COUNT [go test's arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 2 ] && [ -n "$1" ] || { echo "usage: make bench-compare REF=revision" >&2; exit 2; }
ref=$1 count=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"; git worktree prune' EXIT
git worktree add --quiet --detach "$work/tree" "$ref"
for ((i = 1; i <= count; i++)); do
	echo "round $i of $count" >&2
	(cd "$work/tree" && go test "$@") >>"$work/old"
	go test "$@" >>"$work/new"
done
go run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da "$ref=$work/old" "this tree=$work/new"
