package serf_test

import (
	"log"

	"github.com/kvraft/kvraft"
	"github.com/kvraft/kvraft/serf"
)

func Example() {
	gossip, err := serf.Start(serf.Config{Addr: "10.0.0.1:7946", Join: []string{"10.0.0.2:7946"}})
	if err != nil {
		log.Fatal(err)
	}
	defer gossip.Close() // after the store
	store, err := kvraft.Open("data/n1", kvraft.WithID("n1"), kvraft.WithAddr("10.0.0.1:7000"),
		kvraft.WithBootstrapExpect(3), kvraft.WithJoinFunc(gossip.Find))
	if err != nil {
		log.Fatal(err)
	}
	gossip.Attach(store)
	defer store.Close()
}
