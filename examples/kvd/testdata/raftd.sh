# The command lines of raftd's README. What raftd asks at the terminal kvd asks with
# -prompt: the host name, the port, and whom to join.

kvd -prompt ~/node.1 <<< $'\n\n'
kvd -prompt ~/node.2 <<< $'\n4002\nlocalhost:4001'

curl -XPOST http://localhost:4001/files/foo -d "BAR"
[[ $code == 20[01] ]] || fail "$code $out"
curl http://localhost:4001/files/foo
expect BAR
curl http://localhost:4002/files/foo
expect BAR

# Later starts ask nothing: the directory remembers the node and its addresses.
stop INT localhost:4001
kvd ~/node.1
stop INT localhost:4002
kvd ~/node.2
stop INT localhost:4002
kvd -v ~/node.2
stop INT localhost:4002
kvd -prompt ~/node.2
curl http://localhost:4002/files/foo
expect BAR

curl http://localhost:4001/files/absent
[[ $code == 404 ]] || fail "an absent file: $code $out"

# Names that were paths of raft's own files are keys like others.
curl -XPOST http://localhost:4001/files/log -d "LOG"
curl -XPOST http://localhost:4001/files/info -d "INFO"
stop 9 localhost:4001
kvd ~/node.1
curl http://localhost:4001/files/log
expect LOG
curl http://localhost:4001/files/foo
expect BAR

# Flags override what is remembered, and are remembered from then on.
stop INT localhost:4001
kvd -raddr localhost:12001 ~/node.1
stop INT localhost:4001
kvd ~/node.1
is_taken localhost:12001 || fail 'nobody listens on localhost:12001'
curl http://localhost:4001/files/foo
expect BAR

# What cat shows of raftd's log, kvd log shows of a stopped node's.
stop TERM localhost:4001
kvd log ~/node.1 >log
grep -E '^[0-9a-f]{8} ok +[0-9]+ +[0-9]+ command +[0-9]+ set foo BAR ' log || fail "$(cat log)"
