package kvhttp

import (
	"encoding/hex"
	"net/http"

	"github.com/kvraft/kvraft"
)

// node is a member as hraftd writes it.
type node struct {
	ID      string `json:"id"`
	Address string `json:"address"`
}

type member struct {
	node
	Voter    bool             `json:"voter"`
	Replica  bool             `json:"replica,omitempty"`
	Progress *kvraft.Progress `json:"progress,omitempty"` // of one that is brought up to date, on itself and on the leader
}

// status is hraftd's answer, and what it did not tell.
type status struct {
	Me        node   `json:"me"`
	Leader    node   `json:"leader"`    // empty strings: none is known
	Followers []node `json:"followers"` // the other members, if a leader is known

	Nodes        []member          `json:"nodes"` // all members
	Cluster      string            `json:"cluster"`
	State        kvraft.State      `json:"state"`
	Protection   kvraft.Protection `json:"protection"` // of its connections to other nodes
	Term         uint64            `json:"term"`
	CommitIndex  uint64            `json:"commit_index"`
	AppliedIndex uint64            `json:"applied_index"`
	StateVersion uint64            `json:"state_version"`
	Keys         int               `json:"keys"`
	Bytes        int64             `json:"bytes"`
	Ready        bool              `json:"ready"`
	Reason       string            `json:"reason,omitempty"`
	Version      string            `json:"version,omitempty"` // of the program

	// With ?hash, as it reads every key: a hash over the state, and the log
	// index at which every node has the same.
	Hash      string `json:"hash,omitempty"`
	HashIndex uint64 `json:"hash_index,omitempty"`
}

func (h *handler) status(w http.ResponseWriter, r *request) error {
	s := h.store.Status()
	answer := status{
		Me:           node{s.ID, s.Addr},
		Leader:       node{s.Leader.ID, s.Leader.Addr},
		Followers:    []node{},
		Nodes:        []member{},
		Cluster:      s.Cluster,
		State:        s.State,
		Protection:   s.Protection,
		Term:         s.Term,
		CommitIndex:  s.CommitIndex,
		AppliedIndex: s.AppliedIndex,
		StateVersion: s.Version,
		Keys:         s.Keys,
		Bytes:        s.Bytes,
		Ready:        s.Ready,
		Reason:       s.Reason,
		Version:      h.program,
	}
	for _, n := range s.Nodes {
		as := node{n.ID, n.Addr}
		m := member{node: as, Voter: n.Voter, Replica: n.Replica}
		if p, ok := s.Progress[n.ID]; ok {
			m.Progress = &p
		}
		answer.Nodes = append(answer.Nodes, m)
		if s.Leader.ID != "" && n.ID != s.Leader.ID {
			answer.Followers = append(answer.Followers, as)
		}
	}
	hash, err := asked(r, "hash")
	if err != nil {
		return err
	}
	if hash {
		if answer.Hash, answer.HashIndex, err = h.hash(r); err != nil {
			return err
		}
	}
	return h.respondJSON(w, r, answer)
}

// hash computes one hash at a time, whoever asks.
func (h *handler) hash(r *request) (hash string, index uint64, err error) {
	select {
	case h.hashing <- struct{}{}:
		defer func() { <-h.hashing }()
	case <-r.Context().Done():
		return "", 0, refuse(http.StatusServiceUnavailable, "the hash for another request is being computed, which takes time; repeat the request a little later")
	}
	index, sum := h.store.Hash()
	return hex.EncodeToString(sum[:]), index, nil
}

var errDraining = refuse(http.StatusServiceUnavailable, "the server is about to shut down")

func (h *handler) healthz(w http.ResponseWriter, r *request) error {
	if s := h.store.Status(); s.State == kvraft.Stopped {
		return &requestError{http.StatusServiceUnavailable, "the store has stopped: " + s.Reason}
	}
	h.respond(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	return nil
}

func (h *handler) readyz(w http.ResponseWriter, r *request) error {
	if s := h.store.Status(); !s.Ready {
		return &requestError{http.StatusServiceUnavailable, s.Reason}
	}
	if h.drains.Err() != nil {
		return errDraining
	}
	h.respond(w, r, "text/plain; charset=utf-8", []byte("ok\n"))
	return nil
}
