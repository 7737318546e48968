// Package kvraft puts a strongly consistent, replicated key-value store into a
// Go program. It is built on hashicorp/raft.
//
//	store, err := kvraft.Open("data/n1",
//		kvraft.WithID("n1"), kvraft.WithAddr("10.0.0.1:7000"),
//		kvraft.WithJoin("10.0.0.2:7000", "10.0.0.3:7000"))
//	defer store.Close()
//
//	version, err := store.Set(ctx, "color", []byte("green")) // on any node
//	entry, err := store.Get(ctx, "color")                    // on any node, linearizable
//
// # Map
//
// For those who read the code; ARCHITECTURE.md follows a write and a read through it.
// This package is what users call, and has the state machine and the format of its
// snapshots; http, serf and kvrafttest stand on it. Below it, in internal, from the bottom
// up:
//
//   - errs, roster, sleep, durable, life: errors, nodes as a configuration has them,
//     pauses, directories that are synced, until when a node may go on.
//   - connlimit, loglimit, logqueue, raftlog, pace, ownaddr, progress: bounds of
//     connections and of log lines, where those go, raft's lines sorted, writers that
//     rest, a host's own address, whether something stands still.
//   - command, state: what a write is in the log, and what the replicated state makes of
//     it, once.
//   - feed, batch, limits: the latest changes and who waits for one; callers at one time
//     share one piece of work; how large a write may be.
//   - raftrpc, wal, boltlog: raft's messages read within bounds; a log in segments, where a
//     write costs one sync; and a file of bbolt's, for a node's record and for older logs.
//   - disk, snapshots: a node's log with its term, vote and record; and where its snapshots
//     are kept.
//   - wire, raftnet: the peer port with its handshake and calls; raft's messages on it.
//   - node: what one node has, for all that follow.
//   - lead: who leads, whether that is still so, and who is next.
//   - failover: the failure detector, by which a dead or silent leader is replaced.
//   - watchdog: whether the node gets anything done, and what to do if not.
//   - place: where a member is, so that a copy of its data cannot act for it.
//   - founding: which set of nodes forms a cluster.
//   - member: the leader's part of the membership: to admit, promote and remove.
//   - joining: a node's own part: to form a cluster, to ask for its place, to leave.
//
// # Guarantees
//
// A write that was acknowledged is on the disks of a majority of the voters.
// It stays unless a majority of the disks lose it.
//
// A read is linearizable: it sees every write that completed, on any node,
// before the read began. Weaker levels go by name: [LeaderLocal],
// [MaxStaleness], [AtLeast] and [Stale].
//
// A write takes effect once, also when the leader dies in the middle of it and
// the store sends it again. Each request has an id by which the replicated state
// knows it. When the store cannot tell whether a write was applied it returns
// [ErrUnknown]; every other error of a write means that this call did not apply
// it, and never will. With [WithRequestID] a caller can repeat a write itself, also
// after ErrUnknown. The state remembers the last 131,072 requests of its stores, its
// dedup window; a write that is still under way when that many others have passed it is
// reported as unknown, never applied a second time. Requests with an id of the caller's
// it remembers apart from those: the last 1,048,576, in up to 64 MiB of memory.
//
// A node that finds its files damaged, missing or older than it remembers does
// not start, and says which; a start that is refused changes nothing in the directory.
// One that is rolled back as a whole, to an old backup say, cannot be told from that of
// a node that has been down: never do it. Copy a directory only as a whole, and while its
// node is stopped: raft.db and raft.log of different times are no data of a node.
// The last write of a log, if it is not whole after a crash, is dropped. If it could have
// been acknowledged, the node elects nobody who lacks it while a majority may have had it; a
// lone voter cannot ask.
// When the storage of a node fails or hangs, the node stops and the others carry
// on; see [Store.Done].
//
// # Nodes
//
// The first start of a node decides what it is: with [WithJoin] it asks to be
// admitted to a cluster, with [WithBootstrapExpect] it forms one together with
// others, and with neither alone. The same options start it again: from then on the
// directory decides. A node that comes back at another address takes no part until
// the others have confirmed it there, the leader or, if there is none, the voters
// among themselves. A copy of a node's directory stops when it is found out, with
// [ErrCopied].
//
// The cluster and the node get identities that are kept with the data. A connection
// that is meant for another node or another cluster is refused in the handshake. A
// node whose directory was wiped comes back as a new one, which is admitted in
// place of the old: what had voted does not vote again without its memory. One that
// was removed does not come back with its data, unless the removal allows it.
//
// A directory that holds data of another program's raft is refused, with [ErrForeign].
// The first start on the data of a stopped hraftd node takes it over, and there is no
// way back. WithID names the node as hraftd was told to; all of its cluster is to be
// stopped first. The keys are at version 2.
//
// In the directory raft.db has the node's record, with its term, vote and identity,
// raft.log the log, and snapshots the state. Versions of kvraft before that had the log in
// raft.db as well: the first start of this one moves it, for which the disk must have room,
// and they refuse the directory from then on. The nodes of a cluster may be upgraded one by
// one. To go back with a node, empty its directory and let it join anew.
//
// A new member gets a vote when it has caught up. A [Replica] never gets one.
//
// [Status] says in one sentence why a node is not ready. When a majority is lost for
// good, [Recover] begins a new cluster with what one node has. [OpenLog] shows what a
// stopped node has on disk, entry by entry, also where it is damaged.
//
// With [WithSecret] the nodes prove to each other that they have the secret of their cluster,
// and what they say is encrypted. Without it the peer port carries neither authentication nor
// encryption: keep it on a network that only members can reach. With [WithSharedPort] other
// protocols, such as HTTP, are served on it as well; their clients then reach the peers.
//
// # Watching
//
// [Store.Watch] yields the changes of all keys with a prefix, or of one, on any node,
// each once and in the order of their versions, which are the same on every node: a watch that
// ends on one goes on, [After] the last version that was seen, on another. It ends
// with an error when it would have to leave something out. A copy of some keys that is
// always right, or says that it is not:
//
//	for event, err := range store.Watch(ctx, "config/", kvraft.SnapshotFirst) {
//		switch {
//		case err != nil: // ErrCompacted: begin again with an empty copy
//			return err
//		case event.Kind == kvraft.EventSet:
//			config[event.Key] = event.Value
//		case event.Kind == kvraft.EventDelete:
//			delete(config, event.Key)
//		}
//	}
//
// Each node keeps the latest changes in memory, see [WithHistory], for all its
// watchers. One that waits costs nothing but its goroutine, and a write wakes only
// those that watch its key.
//
// # Who owns the bytes
//
// The store keeps no reference to the value given to Set or Batch once the call
// has returned, and nothing else sees the value that Get returned or Watch yielded.
//
// # Time
//
// No promise rests on clocks that agree. Time decides only how soon a silent
// leader is replaced; see [Timing]. One whose process has ended is not silent: its
// connections break and its address refuses others. When a majority of the voters
// see that, the best placed of them stands for election at once. Of a silent one it
// does when a majority have heard nothing of it for [Timing.Heartbeat]. Voters that are
// started together elect a leader at once, if none of them has heard of one; without those
// that do not run, after [Timing.Lease].
//
// # Upstream defects
//
// hashicorp/raft has open defects that would break these promises; each has a
// guard here. Heartbeats never take raft's fast path (issue 695). A log store
// that hangs stops the node (503), and so does its first error (614). Calls that
// raft still owes an answer are waited for before it is shut down (498).
// Leadership is not handed over by raft's own transfer (696). A voter does not
// refuse its vote to a member of whose promotion it has not heard. Reads do not
// rely on VerifyLeader, which counts answers that were sent before the question.
//
// # Limits
//
// The whole state is kept in memory. Keys are non-empty strings of up to 1 KiB
// and values up to 1 MiB, see [WithLimits]. A cluster has one leader, and every
// write passes through it.
package kvraft
