# The command lines of raft-kv-example's README, with the containers that it is
# about. docker_test.go replaces the name of the project and the ports.

# make run goes to the background, as it has a terminal of its own.
make() {
	if [[ $1 != run ]]; then
		command make -C "$ROOT" "$@" >>make.log 2>&1 || fail "make $*"
		return
	fi
	command make -C "$ROOT" run >>make.log 2>&1 &
	pid[make]=$!
}

is_up() {
	kill -0 "${pid[make]}" 2>/dev/null || fail "make run ended"
	fetch -s "127.0.0.1:$1/readyz" && [[ $code == 200 ]]
}
all_up() { is_up 4001 && is_up 4002 && is_up 4003; }
leads() { fetch -s "127.0.0.1:$1/status" && [[ $out == *'"leader":{"id":"'$2'"'* ]]; }
says() { [[ $(docker logs "$1" 2>&1) == *"$2"* ]]; }
is_healthy() { [[ $(docker inspect -f '{{.State.Health.Status}}' "$1") == healthy ]]; }

make run
eventually all_up

curl 'http://127.0.0.1:4001/keys/some-key/'
expect '{"value":""}'
curl 'http://127.0.0.1:4001/keys/some-key/' -H 'Content-Type: application/json' -d '{"value": "some-value"}'
expect '{"value":"some-value"}'
curl 'http://127.0.0.1:4001/keys/some-key/'
expect '{"value":"some-value"}'

# In the README it is node_1 that leads.
curl -XPOST 127.0.0.1:4002/transfer -d '{"id": "node_1"}'
expect ''
eventually says raftexample_node_1_1 'state=leader leader=node_1'
eventually says raftexample_node_2_1 'state=follower leader=node_1'

# Of README.md, up to the start of that container again.
curl 127.0.0.1:4001/keys/color/ -d '{"value": "green"}'
expect '{"value":"green"}'
docker stop raftexample_node_1_1
curl 127.0.0.1:4002/keys/color/
expect '{"value":"green"}'
eventually leads 4002 node_[23]
eventually leads 4003 node_[23]
curl 'http://127.0.0.1:4002/keys/other-key/' -d '{"value": "missed"}'
expect '{"value":"missed"}'
docker start raftexample_node_1_1
eventually all_up
eventually says raftexample_node_1_1 'state=follower leader=node_'
eventually sees 127.0.0.1:4001 other-key missed
eventually is_healthy raftexample_node_1_1
docker exec raftexample_node_1_1 /kvd health
[[ $(docker inspect -f '{{.Config.User}}' raftexample_node_1_1) != '' ]] || fail "a container runs as root"

# Where another program has a port nothing is started, and what runs goes on.
if COMPOSE_PROJECT_NAME=raftexample2 command make -C "$ROOT" run >second.log 2>&1; then fail "two at the same ports"; fi
grep "port 4001 of 127.0.0.1 is in use" second.log || fail "$(cat second.log)"
[[ -z $(docker ps -aq --filter label=com.docker.compose.project=raftexample2) ]] || fail "containers were made"
curl 'http://127.0.0.1:4001/keys/some-key/'
expect '{"value":"some-value"}'

# The data outlives the containers.
make stop
wait "${pid[make]}" || fail "make run ended with $?"
docker run --rm -v raftexample_data_1:/data "$KVD_IMAGE" log /data >log
grep ' ok .* set other-key missed ' log || fail "$(cat log)"
make run
eventually all_up
curl 'http://127.0.0.1:4003/keys/other-key/'
expect '{"value":"missed"}'
make stop
wait "${pid[make]}" || fail "make run ended with $?"
