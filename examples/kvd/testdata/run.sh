#!/usr/bin/env bash
# run.sh KVD SCRIPT
#
# Runs a script of command lines as people type them against real processes of
# the binary KVD. HOME, GOPATH, /tmp/ and the working directory are temporary.
# A line that starts with kvd or $GOPATH/bin/kvd starts a node in the background
# and waits until it is ready; kvd -prompt is typed what follows as <<<; a curl line leaves its answer for expect. Only
# processes that were started here are ended, by pid, also on failure.
set -euo pipefail

binary=$(realpath "$1")
script=$(realpath "$2")
work=$(mktemp -d)
export HOME=$work/home GOPATH=$work/go
export PATH=$GOPATH/bin:$PATH
mkdir -p "$HOME" "$GOPATH/bin" "$work/tmp"
ln -s "$binary" "$GOPATH/bin/kvd"
cd "$work"

limit=60           # seconds that anything waited for may take
declare -A pid     # of the nodes that run, by HTTP address
declare -A command # of every node that was started, by HTTP address
declare -A http    # HTTP address, by peer address as it was given
waiting=()         # HTTP addresses of nodes that wait for others to form a cluster with
out='' code=''     # body and status of the last curl

finish() {
	local status=$? p
	trap - EXIT
	for p in "${pid[@]}"; do kill -9 "$p" 2>/dev/null || true; done
	wait 2>/dev/null || true
	if ((status != 0)); then tail -n 40 "$work"/*.log >&2 || true; fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM

fail() {
	echo "FAILED at ${script##*/}: $*" >&2
	exit 1
}

# eventually COMMAND... repeats it until it succeeds.
eventually() {
	local end=$((SECONDS + limit))
	until "$@"; do
		((SECONDS < end)) || fail "waited $limit s for: $*; last answer: $code $out"
		read -rt 0.05 <> <(:) || true # a pause without a process
	done
}

# flag NAME DEFAULT ARGUMENT... is the value of a flag.
flag() {
	local names=$1 value=$2 i
	shift 2
	for ((i = 1; i < $#; i++)); do
		if [[ ${!i} =~ ^-($names)$ ]]; then
			local next=$((i + 1))
			value=${!next}
		fi
	done
	[[ $value == :* ]] && value=localhost$value
	echo "$value"
}

# remembered NAME DIR DEFAULT is the value of a flag that was not given.
remembered() {
	local value=$3
	if [[ -e $2/kvd.json ]]; then value=$(sed -nE "s/^ *\"$1\": \"(.*)\",?\$/\1/p" "$2/kvd.json"); fi
	echo "$value"
}

is_taken() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

is_ready() {
	kill -0 "${pid[$1]}" 2>/dev/null || fail "the node at $1 ended: ${command[$1]}"
	fetch -s "$1/readyz" && [[ $code == 200 ]]
}

# start KVD ARGUMENT... starts a node and waits until it is ready.
start() {
	local haddr=localhost:11000 raddr=localhost:12000 typed=()
	if [[ " $* " == *' -prompt '* && ! -e ${!#} ]]; then
		mapfile -t typed
		haddr=${typed[0]:-localhost}:${typed[1]:-4001}
		raddr=$haddr
	fi
	haddr=$(flag 'haddr|client' "$(remembered haddr "${!#}" "$haddr")" "$@")
	raddr=$(flag 'raddr|bind' "$(remembered raddr "${!#}" "$raddr")" "$@")
	if [[ -n ${pid[$haddr]:-} ]]; then wait "${pid[$haddr]}" 2>/dev/null || true; fi # the script killed it itself
	local addr
	for addr in "$haddr" "$raddr"; do
		if is_taken "$addr"; then fail "$addr is taken by another program, and this script needs it"; fi
	done
	"$@" < <(printf '%s\n' "${typed[@]}") >>"$work/${haddr//:/_}.log" 2>&1 &
	pid[$haddr]=$!
	command[$haddr]=$(printf '%q ' "$@")
	http[${raddr/#localhost/127.0.0.1}]=$haddr
	http[:${raddr##*:}]=$haddr
	if [[ " $* " == *' -bootstrap-expect '* ]]; then
		waiting+=("$haddr") # until the others are started, too
	else
		eventually is_ready "$haddr"
	fi
}

# await_founded waits for the nodes that were started together.
await_founded() {
	local addr
	for addr in "${waiting[@]}"; do eventually is_ready "$addr"; done
	waiting=()
}

# stop SIGNAL HTTP_ADDRESS ends a node; its exit code must be what the signal
# calls for.
stop() {
	await_founded
	local status=0 want=0
	kill "-$1" "${pid[$2]}"
	wait "${pid[$2]}" 2>/dev/null || status=$?
	unset "pid[$2]"
	if [[ $1 == 9 ]]; then want=137; fi
	[[ $status == "$want" ]] || fail "the node at $2 ended with $status after signal $1, not with $want"
}

# expect_end STATUS HTTP_ADDRESS waits for a node to end by itself.
expect_end() {
	local status=0
	wait "${pid[$2]}" || status=$?
	unset "pid[$2]"
	[[ $status == "$1" ]] || fail "the node at $2 ended with $status, not with $1"
}

restart() { eval "start ${command[$1]}"; }

curl() {
	await_founded
	fetch -sS "$@" || fail "curl $*"
}

fetch() {
	out=$(command curl -m 20 -w '\n%{http_code}' "$@") || return 1
	code=${out##*$'\n'}
	out=${out%$'\n'*}
	out=${out%$'\n'}
}

# expect BODY [STATUS] is about the last curl.
expect() {
	[[ $out == "$1" && $code == "${2:-200}" ]] || fail "line ${BASH_LINENO[0]}: have $code '$out', want ${2:-200} '$1'"
}

# sees HTTP_ADDRESS KEY VALUE: the node has it itself, without asking the leader.
sees() {
	curl "$1/key/$2?consistency=stale"
	[[ $code == 200 && $out == "{\"$2\":\"$3\"}" ]]
}

# find_leader sets leader to the HTTP address of the leader that all nodes which
# run agree on.
find_leader() {
	local node addr seen=''
	for node in "${!pid[@]}"; do
		curl "$node/status"
		addr=$(grep -o '"leader":{[^}]*}' <<<"$out" | grep -o '"address":"[^"]*"' | cut -d'"' -f4) || return 1
		[[ -n $addr && ${seen:=$addr} == "$addr" ]] || return 1
	done
	leader=${http[$addr]:-${http[:${addr##*:}]}}
	[[ -n ${pid[$leader]:-} ]]
}

# survive_the_leader is what the READMEs say under "Tolerating failure".
survive_the_leader() {
	local old node
	eventually find_leader
	old=$leader
	stop 9 "$old"
	eventually find_leader
	for node in "${!pid[@]}"; do
		curl -XGET "$node/key/user1"
		expect '{"user1":"batman"}'
	done
	curl -XPOST "$leader/key" -d '{"user3": "alfred"}'
	expect ''
	restart "$old"
	eventually sees "$old" user3 alfred
	curl -XGET "$old/key/user3"
	expect '{"user3":"alfred"}'
}

sed -E -e "s#/tmp/#$work/tmp/#g" -e '/^(\$GOPATH\/bin\/)?kvd (log|recover) /b' -e '/^(\$GOPATH\/bin\/)?kvd /{ s#^#start #; s# &$##; }' "$script" >"$work/script"
# shellcheck source=/dev/null
source "$work/script"
