package disk

import (
	"math"
	"sync"

	"github.com/hashicorp/raft"
)

// entryOverhead is about what an entry costs beside its data, in memory and on
// disk: raft.Log and its key, field names and time stamp in the file.
const entryOverhead = 128

// logWindow is what a Log knows about its log without asking the disk:
// which entries there are, how big they are, and the newest of them in full.
type logWindow struct {
	limit int64 // bytes of entries in cached

	mu          sync.RWMutex // guards the following; never held across I/O
	first, last uint64       // 0, 0: the log is empty
	sizes       []uint32     // of the entries first to last
	total       int64        // the sum of sizes
	cached      []raft.Log   // the newest entries, without a gap up to last
	cachedBytes int64
}

func entrySize(entry *raft.Log) uint32 {
	size := uint64(len(entry.Data)) + uint64(len(entry.Extensions)) + entryOverhead // an int may have 32 bits
	return uint32(min(size, math.MaxUint32))
}

func (w *logWindow) Bounds() (first, last uint64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.first, w.last
}

func (w *logWindow) holds(index uint64) bool {
	first, last := w.Bounds()
	return first != 0 && first <= index && index <= last
}

// get copies the entry at index, if it is cached. Its data is shared with the
// cache; nobody writes to the data of an entry.
func (w *logWindow) get(index uint64, entry *raft.Log) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	oldest := w.last + 1 - uint64(len(w.cached))
	if index < oldest || index > w.last {
		return false
	}
	*entry = w.cached[index-oldest]
	return true
}

// append adds entries that follow the last one.
func (w *logWindow) append(entries ...*raft.Log) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entry := range entries {
		if w.first == 0 {
			w.first = entry.Index
		}
		w.last = entry.Index
		size := entrySize(entry)
		w.sizes = append(w.sizes, size)
		w.total += int64(size)
		w.cache(entry, int64(size))
	}
}

// cache keeps entry, the newest, and lets go of the oldest ones for it. One
// that is larger than the whole cache leaves it empty.
func (w *logWindow) cache(entry *raft.Log, size int64) {
	w.cached = append(w.cached, *entry)
	w.cachedBytes += size
	for w.cachedBytes > w.limit {
		w.evictOldest()
	}
}

func (w *logWindow) evictOldest() {
	w.cachedBytes -= int64(w.sizes[len(w.sizes)-len(w.cached)])
	w.cached[0] = raft.Log{} // the array behind it lives on: let go of the data
	w.cached = w.cached[1:]
}

// dropBelow forgets the entries below index.
func (w *logWindow) dropBelow(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.first != 0 && w.first < index {
		if len(w.cached) == len(w.sizes) {
			w.evictOldest()
		}
		w.total -= int64(w.sizes[0])
		w.sizes = w.sizes[1:]
		w.first++
		w.emptyIfPassed()
	}
}

// dropFrom forgets the entries from index on.
func (w *logWindow) dropFrom(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.first != 0 && w.last >= index {
		newest := len(w.sizes) - 1
		size := int64(w.sizes[newest])
		if n := len(w.cached); n > 0 {
			w.cached[n-1] = raft.Log{}
			w.cached = w.cached[:n-1]
			w.cachedBytes -= size
		}
		w.total -= size
		w.sizes = w.sizes[:newest]
		w.last--
		w.emptyIfPassed()
	}
}

func (w *logWindow) emptyIfPassed() {
	if w.first > w.last {
		w.first, w.last = 0, 0
	}
}

// Bytes is the size of the whole log.
func (w *logWindow) Bytes() int64 {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.total
}

// SizeOf is the size of those entries from index from to index to, both
// included, that the log has.
func (w *logWindow) SizeOf(from, to uint64) (bytes int64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	from, to = max(from, w.first), min(to, w.last)
	if w.first == 0 || from > to {
		return 0
	}
	for _, size := range w.sizes[from-w.first : to-w.first+1] {
		bytes += int64(size)
	}
	return bytes
}

// TrailingWithin is how many of the newest entries fit into bytes.
func (w *logWindow) TrailingWithin(bytes int64) (entries uint64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for i := len(w.sizes) - 1; i >= 0; i-- {
		if bytes -= int64(w.sizes[i]); bytes < 0 {
			break
		}
		entries++
	}
	return entries
}
