package kvhttp

import (
	"net/http"
	"time"
)

// The limits of a handler, and what each protects. Whoever is refused by one is told
// so: 413 where the request can never be served, 503 with Retry-After where it can
// later. The package comment has them for users.
//
// A request in flight holds at most freeBytes of its body and of its answer that no
// budget counts, so that small ones are served whatever the large ones do: the number
// of connections bounds these. All else is counted before it is allocated.
const (
	// defaultTimeout keeps a request from holding its connection, its goroutine and
	// its memory for good: it is how long a body may take to arrive, the store to
	// answer, and the client to take each piece of the answer.
	defaultTimeout = 10 * time.Second

	// defaultBodyLimit bounds one body, and defaultBodyBudget all of them together with
	// what they are decoded into: eight of the largest at a time. Those that arrive
	// slowly count only with what has arrived.
	defaultBodyLimit  = 16 << 20
	defaultBodyBudget = 128 << 20

	// defaultAnswerBudget bounds all answers that are made or on their way. A client
	// that reads holds its share for milliseconds, one that does not until it is cut
	// off.
	defaultAnswerBudget = 64 << 20

	// freeBytes of each body and of each answer are not counted.
	freeBytes = 16 << 10

	// pieceBytes of an answer, or of the events of a watch, are written at a time, and
	// have to be taken within the timeout. So a slow client is told from one that does
	// not read, whatever the size of the answer.
	pieceBytes = 64 << 10

	// partBytes of a value are made text at a time for a watch: what a thousand watches
	// hold is a thousand such parts, and not as many copies of the largest value.
	partBytes = 8 << 10

	// maxPairs is how many pairs a JSON object may have: the store takes no more
	// operations at once. A pair takes few bytes of a body and many once it is
	// decoded, pairBytes and twice its strings.
	maxPairs  = 1 << 16
	pairBytes = 256

	// A listing has defaultLimit entries unless asked for others, up to maxLimit, and
	// ends with the entry by which its JSON reaches pageBytes: JSON may have six times
	// the bytes of the values.
	defaultLimit = 100
	maxLimit     = 1000
	pageBytes    = 4 << 20

	// One hash of the state is computed at a time: see handler.hashing.

	// detailBytes bounds what an error tells in its detail, which may quote the request.
	detailBytes = 1 << 10

	// defaultHeartbeat is how often a client that watches hears something: fewer would
	// leave those that are gone undiscovered, and proxies take a quiet stream for dead.
	defaultHeartbeat = 15 * time.Second
)

var (
	errBodiesFull  = refuse(http.StatusServiceUnavailable, "the bodies of other requests fill the memory that this node has for them; repeat the request a little later")
	errAnswersFull = refuse(http.StatusServiceUnavailable, "answers to other requests, which clients have not taken yet, fill the memory that this node has for them; repeat the request a little later")
)
