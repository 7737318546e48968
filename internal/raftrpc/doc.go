// Package raftrpc reads the messages of raft that a peer sends, and judges them before raft sees them.
//
// hashicorp/raft trusts its peers. What a message says can end the process, stop the node or leave a log that no start
// accepts. In raft v1.8.0 a message reaches these places, by line:
//
//	configuration.go:365  panics on a configuration that cannot be decoded: in InstallSnapshot (raft.go:1868), in an entry
//	                      when it is appended (raft.go:1588), applied (fsm.go:118), and at each start (api.go:620)
//	raft.go:1386          panics on a committed entry of an unknown type
//	raft.go:1333          panics when a committed entry is not in the log, as after an entry with a wrong index
//	raft.go:1517          reads a nil entry
//	raft.go:1525          deletes the log from the first entry that differs, committed or not
//	raft.go:1560          lastLog becomes the index of the entry; one of 2^64-1 makes the next 0 (raft.go:1231)
//	raft.go:1572          commits its own entries up to LeaderCommitIndex, also those that the message says nothing of
//	raft.go:1598          makes a configuration of a deprecated entry, in which ids are addresses
//	raft.go:2165          saves whatever term is greater; 2^64-1 makes the next 0 (raft.go:1993)
//	raft.go:332, 395, 418 likewise, of an answer
//	replication.go:245    adds 1 to LastLog of an answer
//	raft.go:1666, 1701    does not ask whether a candidate without an id is a member or a voter
//	raft.go:2249          makes a candidate of a node without a vote
//
// and the log store, the state machine and the next start stop for a gap, an entry that does not match its checksum, terms
// that fall or lie above the node's, a command that cannot be decoded. Line numbers are of the statement or near it.
//
// [Validate] is pure: it holds a decoded request against what it is told of the node. Nothing that it passes panics raft or
// stops a node, and nothing that a leader or a candidate of the protocol can send, late or twice, is refused for good. It
// does not know who a peer is. A peer that lies within these rules is still believed: only authentication keeps it out.
//
// [Read] bounds what a request may cost before it has been judged. All functions may be called from any goroutine; there are
// no locks. FuzzRead and FuzzValidate feed them hostile bytes, and what passes to a raft instance.
package raftrpc
