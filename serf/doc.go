// Package serf lets the nodes of a kvraft cluster find each other by gossip, and
// heals the cluster around those that fail. It is optional, and stands on
// hashicorp/serf: a program that does not import it links none of that.
//
//	gossip, err := serf.Start(serf.Config{Addr: "10.0.0.1:7946", Join: []string{"10.0.0.2:7946"}})
//	store, err := kvraft.Open("data/n1", kvraft.WithID("n1"), kvraft.WithAddr("10.0.0.1:7000"),
//		kvraft.WithBootstrapExpect(3), kvraft.WithJoinFunc(gossip.Find))
//	gossip.Attach(store)
//	defer gossip.Close() // after the store
//	defer store.Close()
//
// # Finding
//
// A node needs the gossip address of one other node that is up. [Gossip.Find]
// returns the peer addresses of all nodes that the gossip knows to be alive, for
// kvraft.WithJoinFunc. Gossip that has split reunites within a minute of the network,
// if nodes on one side have the address of one on the other in Config.Join.
//
// # Healing
//
// When a member of the cluster fails, every node logs it within seconds. When it has been
// failed for Config.HealAfter, the leader removes it from the cluster, unless it
// answers the leader after all, or those that are left would lack a majority. The
// removed one is admitted again when it comes back, with its data or without.
//
// So five nodes bear the loss of three, if one is healed around before the next is
// lost. Three become two, which bear no loss until the third is back.
//
// A node whose store has stopped by itself, as its disk failed, has failed although its
// process may go on. One that is closed in order has not, and stays a member. Nor is a
// node touched that has never taken part in the gossip, or failed before the others heard
// by it which member it is, a second or so after its start.
//
// The gossip decides nothing by itself: who votes and what is written is raft's
// alone, and the worst that wrong gossip does is to have a member removed that
// comes back.
//
// # Security
//
// Gossip goes over UDP and TCP. Without Config.Key it is neither authenticated nor
// encrypted: keep it on a network that only members can reach.
package serf
