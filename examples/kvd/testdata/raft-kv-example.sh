# The command lines of raft-kv-example's README. Its three containers show their
# HTTP ports on the host as 4001, 4002 and 4003.

kvd -id node1 -haddr 127.0.0.1:4001 -raddr 127.0.0.1:12000 ~/node1
kvd -id node2 -haddr 127.0.0.1:4002 -raddr 127.0.0.1:12001 -join 127.0.0.1:4001 ~/node2
kvd -id node3 -haddr 127.0.0.1:4003 -raddr 127.0.0.1:12002 -join 127.0.0.1:4001 ~/node3

curl 'http://127.0.0.1:4001/keys/some-key/'
expect '{"value":""}'
curl 'http://127.0.0.1:4001/keys/some-key/' -H 'Content-Type: application/json' -d '{"value": "some-value"}'
expect '{"value":"some-value"}'
curl 'http://127.0.0.1:4001/keys/some-key/'
expect '{"value":"some-value"}'

# The leader is stopped, another one takes over, and the old one comes back.
eventually find_leader
old=$leader
stop TERM "$old"
eventually find_leader
curl "http://$leader/keys/some-key/"
expect '{"value":"some-value"}'
curl "http://$leader/keys/other-key/" -d '{"value": "missed"}'
expect '{"value":"missed"}'
restart "$old"
eventually find_leader
[[ $leader != "$old" ]] || fail "the old leader came back as the leader"
eventually grep -q "state=follower leader=node[123]" "${old//:/_}.log"
grep -q "state=leader leader=node[123]" "${leader//:/_}.log" || fail "the leader does not say so"
eventually sees "$old" other-key missed
curl "http://$old/keys/other-key"
expect '{"value":"missed"}'
