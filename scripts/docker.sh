#!/usr/bin/env bash
# The image of kvd, and the three nodes of docker-compose.yml.
#
#	scripts/docker.sh image   builds kvd for the engine's architecture, and the image
#	scripts/docker.sh run     starts the nodes and shows what they print; stops them when it is interrupted
#	scripts/docker.sh stop    removes the containers; the volumes with the data stay
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
	echo "scripts/docker.sh: $*" >&2
	exit 1
}

arch=$(docker version --format '{{.Server.Arch}}') || die "it needs a Docker engine that runs"

compose() {
	if docker compose version >/dev/null 2>&1; then
		docker compose --compatibility "$@" # else it names containers with hyphens
	else
		docker-compose "$@"
	fi
}

image() {
	local version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
	mkdir -p bin/data
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -ldflags "-X main.version=$version" -o bin/kvd ./examples/kvd
	docker build --build-arg "VERSION=$version" -t "${KVD_IMAGE:-kvd}" .
}

# check_ports fails where another program has a port, before anything is started.
check_ports() {
	local i name port
	for i in 1 2 3; do
		name=KVD_PORT$i
		port=${!name:-400$i}
		if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			die "port $port of 127.0.0.1 is in use, so nothing was started; $name=PORT make run takes another"
		fi
	done
}

run() {
	local running
	running=$(compose ps --services --filter status=running) || die "it needs docker compose, or docker-compose"
	[ -n "$running" ] || check_ports
	image
	if ! compose up -d; then
		[ -n "$running" ] || compose down
		die "the nodes did not start; the data of earlier runs is still there"
	fi
	trap 'compose stop' INT TERM
	compose logs -f
}

case ${1:-} in
image) image ;;
run) run ;;
stop) compose down ;;
*) die "one of image, run and stop is expected" ;;
esac
