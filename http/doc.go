// Package kvhttp serves a kvraft store over HTTP.
//
// [Handler] is one plain http.Handler without any state outside itself. Mount
// it at the root of a mux, or below a prefix with http.StripPrefix:
//
//	mux.Handle("/", kvhttp.Handler(store))
//	mux.Handle("/kv/", http.StripPrefix("/kv", kvhttp.Handler(store)))
//
// With [kvraft.WithSharedPort] it can be served on the port of the peers:
//
//	http.Serve(store.OtherConns(), kvhttp.Handler(store))
//
// # Requests
//
//	POST /key                       {"k":"v",...}: sets all the pairs or none; {} sets nothing
//	GET /key/{key}                  {"key":"value"}; 404 when absent
//	GET /key?prefix=&limit=&after=  lists keys with their values; see below
//	DELETE /key/{key}               200, also when absent
//	GET /keys/{key}/                {"value":"v"}; {"value":""} when absent
//	POST /keys/{key}/               {"value":"v"}: sets the key and answers the same
//	GET /files/{key}                the value's bytes; 404 when absent
//	PUT, POST /files/{key}          sets the key to the bytes of the body; a PUT that
//	                                made the key is answered 201
//	DELETE /files/{key}             200, also when absent
//	GET /watch?prefix=&from=        changes as they come, as server-sent events; see below
//	POST /join                      {"id":"n2","addr":"host:port"}: admits a node; with
//	                                ?replica without a vote
//	POST /remove                    {"id":"n2"}: takes a node out of the cluster; see below
//	POST /transfer                  {"id":"n2"}: makes a voter the leader; without a body
//	                                any other than the present one
//	GET /status                     what this node knows of itself and its cluster, and
//	                                the version of its program ([WithVersion]);
//	                                with ?hash also a hash over all of the state
//	GET /healthz                    200 unless the store has stopped
//	GET /readyz                     200 when the node can serve, or 503 and why not
//
// HEAD goes wherever GET does, and OPTIONS answers what goes. Content types are
// not looked at, and a body comes as it is, without a Content-Encoding. The same keys are behind /key, /keys and /files. The first two
// carry strings: a value that is not UTF-8 cannot be read there (406), only
// under /files and in listings. Where one JSON object names a key twice, the
// last value counts.
//
// Changes of the membership can be repeated. /remove takes ?force, for a removal
// that leaves no majority of those that answer, and ?may_return, for a node that may
// be admitted again with its data. In /status, a node under "nodes" that is brought
// up to date has its "progress": "index" is how far its state reaches, "behind" how
// many log entries it lacks, "bytes" how much that is, at "bytes_per_second".
//
// # Read levels
//
// Reads of keys and listings are linearizable unless their query says otherwise;
// whatever else has these parameters ignores them.
//
//	consistency=linearizable  sees every write that completed before
//	consistency=leader        what the leader has; a deposed one may not know yet
//	consistency=stale         what this node has, without asking anybody
//	max_staleness=DURATION    what this node has, if that is proven to lack no write
//	                          that completed longer ago: 500ms, 1m30s, or a plain
//	                          number of seconds; above 0
//	at_least=VERSION          what this node has, once it has reached that version
//
// The last two go together, and then both hold, and with consistency=stale, which
// they imply; with another level they are refused (400). VERSION is a number such
// as a listing gives, or an ETag without its quotes: the ETag of a write makes a
// read on another node see that write. A node that does not become fresh enough in
// time answers 503, with the type of [kvraft.ErrStale].
//
// # Listings
//
// GET /key with any of the parameters prefix, limit and after lists the keys that
// begin with prefix and come after the key after, in the order of their bytes.
// /key?prefix= begins at the first of all keys; a bare GET /key is refused (400),
// as a read that has lost its key.
//
//	{"entries":[{"key":"a","value":"1","version":3},...],"version":17,"more":true}
//
// The entries are those of one moment, when the store was at "version". There are
// at most limit of them, 1 to 1000 and by default 100; a listing also ends with the
// entry that takes its JSON to 4 MiB. "more" says that there are others
// with the prefix after the last one: the bytes of that key as after,
// percent-encoded, go on from there. In place of a "key" or a "value" that is not
// UTF-8 there is a "key_base64" or a "value_base64".
//
// The ETag of a listing is the version of the store. If-None-Match answers 304
// while nothing has changed in all of it, and pages that are asked for with the
// first one's ETag as If-Match are all of one moment, or answer 412.
//
// # Watching
//
// GET /watch streams the changes of the keys that begin with prefix, of the one key that
// key= names, or of all keys, in the order of their versions, as server-sent events:
//
//	id: 17
//	event: set
//	data: {"key":"a","value":"1","version":17}
//
//	id: 18
//	event: delete
//	data: {"key":"a","version":18}
//
//	id: 18
//	event: sync
//	data: {"version":18}
//
// from is the version that was seen last, of whichever node: the stream begins with the
// change after it. Without from it begins with the next change there is; with
// &snapshot in its place come the keys that are there first, as set events with
// their versions. A sync says that everything up to its version was sent: after the
// snapshot, or as soon as the stream has caught up, and then whenever nothing else was
// sent for 15 s ([WithHeartbeat]). Keys and values that are not UTF-8 are told as in
// listings.
//
// The events of one version, or of a snapshot, follow each other, and only the last
// has the id. So a client that sends the last id as Last-Event-ID, as browsers do when
// they reconnect, misses nothing and gets nothing twice; that header counts before
// from and snapshot.
//
// A from that is older than what the node still has of the latest changes is answered
// 410 (the type of [kvraft.ErrCompacted]): begin anew with &snapshot. "from" in the
// answer is the lowest that it takes. What goes wrong later is told in the stream, by
// a last event whose data is what the answer would have been:
//
//	retry: 10000
//	event: problem
//	data: {"type":"...#ErrCompacted","title":"history compacted","status":410,...,"from":40}
//
// A request with Last-Event-ID is answered so from the beginning, with status 200: an
// EventSource gives up for good on any other. It reconnects after the milliseconds of
// retry, and its page can listen to problem events.
//
// A client that does not take an event in time, see [WithTimeout], is cut off; one that
// is slower than the changes for long is compacted. Nobody waits for it. Watches hold
// up the graceful shutdown of a server unless [WithWatchContext] ends them;
// [WithDrainContext] prepares for it, so that no request is cut off.
//
// # Keys
//
// A key is everything in the path after /key/, /keys/ or /files/, slashes
// included, percent-decoded once: /files/a/b and /files/a%2Fb both name "a/b",
// and a + is a plus. Below /keys/ one trailing slash belongs to the route, so
// that "a/" is /keys/a%2F there.
//
// What stands between a client and the handler may change a path first. Browsers
// resolve "." and ".." segments, percent-encoded or not. http.ServeMux redirects
// a raw ".", ".." or "//" to a path that names another key; gorilla/mux does so
// with the encoded ones too, unless it is made with UseEncodedPath and SkipClean;
// chi and echo leave every path as it is. The query is safe from all of them:
// /key?key=, /keys?key= and /files?key=, each also with a slash before the
// question mark, take any key, as /watch?key= does. In a query a + is a space and %2B a plus. A
// request names its key once, in the path or in the query. Data that was hraftd's may
// have an empty key: it is listed, and DELETE /key?key= deletes it.
//
// # Versions
//
// Answers to reads and to sets of keys carry the version of the key as ETag, a
// number in quotes. Reads and writes of one key take If-Match and If-None-Match
// (RFC 9110, section 13): lists, "*", and weak tags, which If-Match never
// matches; nor does it match an absent key that /keys/ reads as "". A write whose condition fails answers 412 and changes nothing;
// between the check and the write nothing can come. If-None-Match: * writes only
// an absent key. POST /key takes no conditions.
//
// # Repetitions
//
// Every answer, errors included, carries a Raft-Index: a log index that the state
// of this node had reached when the answer was written. So the log was committed
// up to there, and whatever a later request writes lies beyond. It says nothing
// about what the answer shows: that may be of an older state, or, where the leader
// served it, of a newer one.
//
// A request that sets or deletes keys takes effect once, however often and to
// whichever nodes it is sent, if it has an Idempotency-Key of the form INDEX-NAME,
// plain or as a string in quotes. INDEX is the Raft-Index of an answer of the same
// cluster, from before the first attempt and recent (HEAD /healthz gives one).
// NAME is up to the client, and for one write only. The key has at most 256 bytes.
//
//	Idempotency-Key: 4711-8b1f9a52
//	Idempotency-Key: "4711-8b1f9a52"
//
// A repetition has the same key, path, conditions and body. It is answered as the
// first attempt was, a 412 included; if no earlier one has come through, this one
// does. The same key, or NAME, on another write is answered 422.
// The cluster remembers the last 1,048,576 requests with such a key, whatever else is
// written: at 1,000 of them a second those of the last 17 minutes. A request that is
// not among them is answered 504 and not carried out if more came after its INDEX. One
// whose INDEX the log has not reached is answered 400.
//
// The conditions of such a request are If-Match with one version, or
// If-None-Match: *, which are decided together with the write. Others take a look
// at the key first, where a repetition would find what the first attempt wrote,
// and are refused (400). Changes of the membership ignore the header.
//
// # Errors
//
// Every error is an application/problem+json object (RFC 9457). On requests
// that would change something its member "applied" is "no" or "unknown", of this
// request, whatever became of an earlier one with its Idempotency-Key; "leader" is
// the leader that this node knows, if any.
//
//	400  the request can never be right
//	403  a page of another origin, in a browser, asked for a change
//	404  no such path, or the key is absent, or no member has the id
//	405  not with this method; Allow says which
//	406  the key or the value is not UTF-8, and JSON cannot carry it
//	408  the body did not arrive in time
//	409  a change of the membership was refused
//	410  a watch is to begin with changes that are no longer kept
//	412  a condition failed
//	413  the body, or what it holds, is too large
//	414  the key in the path or the query is too long
//	415  the body has a Content-Encoding
//	421  the Host is no name of this server
//	422  the Idempotency-Key is that of another write
//	501  this server cannot stream
//	502  the node to be joined cannot be reached
//	503  not applied, with Retry-After: no leader, the store has stopped, this node is
//	     not as fresh as a read wants it, or other requests fill a limit
//	504  the time ran out; a write may or may not have been applied, and is safe
//	     to repeat if it has an Idempotency-Key
//
// # Limits
//
// What one request may take, and what all of them may take together, is bounded;
// whoever is refused is told so, by 413 where the request can never be served, and by
// 503 with Retry-After where it can a little later.
//
//	WithTimeout        10 s     from the arrival of a request to its answer, or to the first
//	                            event of a stream; the arrival of its body included (408)
//	                            where the http.ResponseWriter supports read deadlines
//	                   10 s     for the client to take each 64 KiB of an answer or a stream,
//	                            or else it is cut off, where there are write deadlines
//	WithBodyLimit      16 MiB   of one body (413)
//	                   65,536   pairs in one JSON object (413)
//	WithBodyBudget     128 MiB  of all bodies, as far as they have arrived, with what they
//	                            are decoded into (503)
//	WithAnswerBudget   64 MiB   of all answers that clients have not taken (503)
//	                   1000     entries in one listing, which ends with the one that takes
//	                            its JSON to 4 MiB
//	                   1        hash of the state at a time, for /status?hash (503)
//	                   1 KiB    of detail in an error
//
// The first 16 KiB of each body and each answer are not counted, so that small requests
// are served whatever the large ones do. Headers, idle connections and the number of
// connections are the http.Server's to limit; give it [ConnContext]. A node whose clients
// have taken all file descriptors is reached by no other: clients.go of examples/kvd
// leaves some.
//
// # Browsers
//
// The handler lets everyone in: put authentication in front of it. But pages of other
// origins in a browser change nothing (403) unless [WithCrossOriginProtection] says
// that they may, and [WithHosts] with [LoopbackHost] refuses (421) what a page has
// asked of loopback under a name of its own.
package kvhttp
