# The command lines of hraftd's README of 2016: no ids, wildcard addresses.

$GOPATH/bin/kvd ~/node0

curl -XPOST localhost:11000/key -d '{"foo": "bar"}'
expect ''
curl -XGET localhost:11000/key/foo
expect '{"foo":"bar"}'

curl -XPOST localhost:11000/key -d '{"user1": "batman"}'
expect ''
curl -XGET localhost:11000/key/user1
expect '{"user1":"batman"}'

$GOPATH/bin/kvd -haddr :11001 -raddr :12001 -join :11000 ~/node1
$GOPATH/bin/kvd -haddr :11002 -raddr :12002 -join :11000 ~/node2

curl -XGET localhost:11000/key/user1
expect '{"user1":"batman"}'
curl -XGET localhost:11001/key/user1
expect '{"user1":"batman"}'
curl -XGET localhost:11002/key/user1
expect '{"user1":"batman"}'

curl -XPOST localhost:11000/key -d '{"user2": "robin"}'
expect ''

curl -XGET localhost:11000/key/user2
expect '{"user2":"robin"}'
curl -XGET localhost:11001/key/user2
expect '{"user2":"robin"}'
curl -XGET localhost:11002/key/user2
expect '{"user2":"robin"}'

survive_the_leader
