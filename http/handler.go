package kvhttp

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/kvraft/kvraft"
)

// Store is what a handler uses of a [kvraft.Store].
type Store interface {
	Get(ctx context.Context, key string, opts ...kvraft.ReadOption) (kvraft.Entry, error)
	View(ctx context.Context, opts ...kvraft.ReadOption) (*kvraft.View, error)
	Watch(ctx context.Context, prefix string, opts ...kvraft.WatchOption) iter.Seq2[kvraft.Event, error]
	Set(ctx context.Context, key string, value []byte, opts ...kvraft.WriteOption) (uint64, error)
	Delete(ctx context.Context, key string, opts ...kvraft.WriteOption) (uint64, error)
	Batch(ctx context.Context, ops ...kvraft.Op) (uint64, error)
	Join(ctx context.Context, id, addr string, opts ...kvraft.JoinOption) error
	Remove(ctx context.Context, id string, opts ...kvraft.RemoveOption) error
	TransferLeadership(ctx context.Context, id string) error
	Status() kvraft.Status
	Index() uint64
	Hash() (index uint64, sum [32]byte)
}

var _ Store = (*kvraft.Store)(nil)

// Option sets up a handler; see [Handler].
type Option func(*handler)

// WithTimeout bounds one request, the arrival of its body included, of a watch the
// time until it begins, and of every answer and stream the time until the client has
// taken the next 64 KiB. Zero or less: the default, 10 s.
func WithTimeout(d time.Duration) Option { return func(h *handler) { h.timeout = d } }

// WithBodyLimit bounds the body of one request, in bytes; a larger one answers
// 413. Zero or less: the default, 16 MiB, which holds any batch within the
// store's default limits unless its JSON is mostly escapes.
func WithBodyLimit(bytes int64) Option { return func(h *handler) { h.bodyLimit = bytes } }

// WithBodyBudget bounds the bodies of all requests together, with what they are decoded
// into, in bytes; a request for which there is no room answers 503. Zero or less: the
// default, 128 MiB.
func WithBodyBudget(bytes int64) Option { return func(h *handler) { h.bodies.limit = bytes } }

// WithAnswerBudget bounds the answers that are on their way to clients, all together,
// in bytes; a request for which there is no room answers 503. Zero or less: the
// default, 64 MiB.
func WithAnswerBudget(bytes int64) Option { return func(h *handler) { h.answers.limit = bytes } }

// WithHeartbeat is how often a client that watches hears something when nothing
// changes. Zero or less: the default, 15 s.
func WithHeartbeat(d time.Duration) Option { return func(h *handler) { h.heartbeat = d } }

// WithWatchContext ends all watches when ctx ends, which else hold up the Shutdown
// of an http.Server until the clients go. Other requests it does not touch:
//
//	ctx, cancel := context.WithCancel(context.Background())
//	server := &http.Server{Handler: kvhttp.Handler(store, kvhttp.WithWatchContext(ctx))}
//	server.RegisterOnShutdown(cancel)
func WithWatchContext(ctx context.Context) Option { return func(h *handler) { h.watches = ctx } }

// WithDrainContext prepares for the Shutdown of an http.Server when ctx ends, some time
// before it: /readyz answers 503, so that load balancers send no more, and each answer
// ends its connection. Everything is served as before. Shutdown alone closes
// connections on which a client may just be sending its next request, and the client
// cannot tell whether that was carried out.
func WithDrainContext(ctx context.Context) Option { return func(h *handler) { h.drains = ctx } }

// WithVersion is the version of the program, for /status. Default: none.
func WithVersion(version string) Option { return func(h *handler) { h.program = version } }

type handler struct {
	store     Store
	timeout   time.Duration
	gaveUp    error // why a context ends after timeout; the store's errors tell it
	bodyLimit int64
	bodies    budget
	answers   budget
	heartbeat time.Duration
	program   string          // its version
	watches   context.Context // all watches end with it
	drains    context.Context // each answer ends its connection when it has ended
	hashing   chan struct{}   // holds a token while a hash is computed
	origins   *http.CrossOriginProtection
	isOwn     func(host string) bool // nil: any is
	resources map[string]resource    // by the first segment of the path
}

// Handler serves store. It does not close it. The package comment lists the
// requests.
func Handler(store Store, opts ...Option) http.Handler {
	h := &handler{store: store, hashing: make(chan struct{}, 1), watches: context.Background(), drains: context.Background(), origins: http.NewCrossOriginProtection()}
	for _, opt := range opts {
		opt(h)
	}
	h.timeout = orDefault(h.timeout, defaultTimeout)
	h.gaveUp = fmt.Errorf("gave up after %v", h.timeout)
	h.heartbeat = orDefault(h.heartbeat, defaultHeartbeat)
	h.bodyLimit = orDefault(h.bodyLimit, defaultBodyLimit)
	h.bodies.limit = orDefault(h.bodies.limit, defaultBodyBudget)
	h.answers.limit = orDefault(h.answers.limit, defaultAnswerBudget)
	h.resources = map[string]resource{
		"key":      {keyed: methods{"GET": h.getKey, "DELETE": h.deleteKey}, bare: methods{"GET": h.list, "POST": h.setKeys}},
		"keys":     {keyed: methods{"GET": h.getValue, "POST": h.setValue}, slash: true},
		"files":    {keyed: methods{"GET": h.getFile, "PUT": h.setFile, "POST": h.setFile, "DELETE": h.deleteKey}},
		"watch":    {bare: methods{"GET": h.watch}, stream: true},
		"join":     {bare: methods{"POST": h.join}},
		"remove":   {bare: methods{"POST": h.remove}},
		"transfer": {bare: methods{"POST": h.transfer}},
		"status":   {bare: methods{"GET": h.status}},
		"healthz":  {bare: methods{"GET": h.healthz}},
		"readyz":   {bare: methods{"GET": h.readyz}},
	}
	return h
}

func orDefault[T ~int64](given, standard T) T {
	if given <= 0 {
		return standard
	}
	return given
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Set here, not where the body is read: the server itself reads on
		// when a handler leaves a body alone. A writer that knows no deadlines
		// leaves a stalled body to the server's ReadTimeout.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.timeout))
	}
	w.Header().Set("Cache-Control", "no-cache") // a shared cache may keep even a 404 otherwise
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if h.drains.Err() != nil {
		w.Header().Set("Connection", "close")
	}
	err := h.admit(r)
	if err == nil {
		err = h.serve(w, r)
	}
	if err != nil {
		h.fail(w, r, err)
	}
}
