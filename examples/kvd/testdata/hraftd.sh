# The command lines of hraftd's README.

$GOPATH/bin/kvd -id node0 ~/node0

curl -XPOST localhost:11000/key -d '{"foo": "bar"}'
expect ''
curl -XGET localhost:11000/key/foo
expect '{"foo":"bar"}'

curl -XPOST localhost:11000/key -d '{"user1": "batman"}'
expect ''
curl -XGET localhost:11000/key/user1
expect '{"user1":"batman"}'

$GOPATH/bin/kvd -id node1 -haddr localhost:11001 -raddr localhost:12001 -join :11000 ~/node1
$GOPATH/bin/kvd -id node2 -haddr localhost:11002 -raddr localhost:12002 -join :11000 ~/node2

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

# A follower takes writes, and says that a key is not there.
eventually find_leader
for follower in "${!pid[@]}"; do
	[[ $follower != "$leader" ]] || continue
	curl -XPOST "$follower/key" -d "{\"through\": \"$follower\"}"
	expect ''
	curl -XGET "$leader/key/through"
	expect "{\"through\":\"$follower\"}"
	curl -XGET "$follower/key/nobody"
	[[ $code == 404 ]] || fail "an absent key: $code $out"
done

# A node whose state is on disk ignores where it should join.
stop TERM localhost:11002
$GOPATH/bin/kvd -id node2 -haddr localhost:11002 -raddr localhost:12002 -join :1 ~/node2
eventually sees localhost:11002 user3 alfred
