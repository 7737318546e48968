package roster

import (
	"testing"

	"github.com/hashicorp/raft"
)

func TestTheAddressOfAMemberThatHasMovedIsDialedWhereItIs(t *testing.T) {
	for addr, dialed := range map[string]string{
		"a:1":                               "a:1",
		string(MovedAddr("a:1", 3, 17)):     "a:1",
		string(MovedAddr("[::1]:1", 3, 17)): "[::1]:1",
		"":                                  "",
	} {
		if got := DialAddr(addr); got != dialed {
			t.Errorf("%q is dialed at %q, want %q", addr, got, dialed)
		}
	}
	if MovedAddr("a:1", 3, 17) == MovedAddr("a:1", 3, 18) {
		t.Error("two moves to one address have the same address in the configuration")
	}
}

func TestTheIDOfANodeIsWhatComesBeforeItsIdentity(t *testing.T) {
	if id := UserID("n1#abc"); id != "n1" || HasNoIdentity("n1#abc") {
		t.Errorf("n1#abc is %q, no identity %v", id, HasNoIdentity("n1#abc"))
	}
	if id := UserID("n1"); id != "n1" || !HasNoIdentity("n1") {
		t.Errorf("n1 is %q, no identity %v", id, HasNoIdentity("n1"))
	}
}

func TestVotersAreThoseMembersThatVote(t *testing.T) {
	config := raft.Configuration{Servers: []raft.Server{
		{ID: "a#1", Address: "a:1", Suffrage: raft.Voter}, {ID: "b#1", Address: "b:1", Suffrage: raft.Nonvoter},
	}}
	if ids := IDs(Voters(config)); len(ids) != 1 || ids[0] != "a#1" || len(config.Servers) != 2 {
		t.Errorf("voters are %v of %v", ids, config.Servers)
	}
	if !Lists(config, "b#1") || IsVoter(config, "b#1") || Lists(config, "c#1") {
		t.Error("b#1 is a member without a vote, and c#1 is none")
	}
	if AddressOf(config, "b#1") != "b:1" || AddressOf(config, "c#1") != "" {
		t.Errorf("addresses are %q and %q", AddressOf(config, "b#1"), AddressOf(config, "c#1"))
	}
}
