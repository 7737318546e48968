package wire

import (
	"os"
	"sync"
)

// reserve is file descriptors that are kept for when there are no others: for a
// connection, and for the questions to find the address of a name.
type reserve struct {
	mu    sync.Mutex
	files []*os.File // guarded by mu
}

const reserved = 4

// Fill keeps some descriptors, if there are any.
func (r *reserve) Fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.files) < reserved {
		file, err := os.Open(os.DevNull)
		if err != nil {
			return // or else later
		}
		r.files = append(r.files, file)
	}
}

func (r *reserve) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, file := range r.files {
		file.Close()
	}
	r.files = nil
}

// Free makes the descriptors free for whoever is to dial without any other, until the
// function that it returns is called.
func (r *reserve) Free() (fill func()) {
	r.empty()
	return r.Fill
}
