# The command lines of disco-http's README.

kvd -id node0 /tmp/node0

curl -XPOST localhost:11000/key -d '{"foo": "bar"}'
expect ''
curl -XGET localhost:11000/key/foo
expect '{"foo":"bar"}'

curl -XPOST localhost:11000/key -d '{"user1": "batman"}'
expect ''
curl -XGET localhost:11000/key/user1
expect '{"user1":"batman"}'

kvd -id node1 -client :11001 -bind :12001 -join :11000 /tmp/node1
kvd -id node2 -client :11002 -bind :12002 -join :11000 /tmp/node2

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

# Its code names the node with -node, and a node may join through any member.
for addr in "${!pid[@]}"; do stop TERM "$addr"; done
kvd -node node0 /tmp/through/node0
kvd -node node1 -client :11001 -bind :12001 -join :11000 /tmp/through/node1
kvd -node node2 -client :11002 -bind :12002 -join :11001 /tmp/through/node2
curl -XPOST localhost:11002/key -d '{"user1": "batman"}'
expect ''
eventually sees localhost:11000 user1 batman
eventually sees localhost:11001 user1 batman
