# The command lines of raftd's README, without what it asks at the terminal: each
# first start without -join founds a cluster.

kvd ~/node.1
stop INT localhost:11000

kvd ~/node.2
stop INT localhost:11000

kvd -v ~/node.2
stop INT localhost:11000

# The directory remembers the node; its addresses are those of the command line.
kvd -haddr localhost:4001 -raddr localhost:12001 ~/node.1

curl -XPOST http://localhost:4001/files/foo -d "BAR"
[[ $code == 20[01] ]] || fail "$code $out"
curl http://localhost:4001/files/foo
expect BAR
curl http://localhost:4001/files/absent
[[ $code == 404 ]] || fail "an absent file: $code $out"

# Names that were paths of raft's own files are keys like others.
curl -XPOST http://localhost:4001/files/log -d "LOG"
curl -XPOST http://localhost:4001/files/info -d "INFO"
stop 9 localhost:4001
restart localhost:4001
curl http://localhost:4001/files/log
expect LOG
curl http://localhost:4001/files/foo
expect BAR
