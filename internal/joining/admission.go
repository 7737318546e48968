package joining

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"github.com/kvraft/kvraft/internal/disk"
	"github.com/kvraft/kvraft/internal/errs"
	"github.com/kvraft/kvraft/internal/founding"
	"github.com/kvraft/kvraft/internal/place"
	"github.com/kvraft/kvraft/internal/wire"
)

// AcceptAdmission is the other side of place.Admit: the cluster is on disk before the
// answer leaves, and from then on only that cluster is heard.
func (j *Joiner) AcceptAdmission(_ context.Context, a place.Admission) (wire.Raw, error) {
	var refusal error
	var fresh bool
	err := j.Stable().Update(func(m *disk.Record) {
		switch {
		case a.Cluster == "":
			refusal = fmt.Errorf("%w: an admission to no cluster", errs.Invalid)
		case a.Server != m.ServerID():
			refusal = fmt.Errorf("%w: this is node %s, not %s", errs.Refused, m.ServerID(), a.Server)
		case m.Cluster != "" && m.Cluster != a.Cluster:
			refusal = fmt.Errorf("%w: node %s belongs to cluster %s", errs.Refused, m.ID, m.Cluster)
		case m.LacksClusterID():
			refusal = fmt.Errorf("%w: node %s has the data of a cluster of hraftd's", errs.Refused, m.ID)
		case m.Promise != nil && founding.ClusterID(m.Promise) != a.Cluster:
			refusal = fmt.Errorf("%w: node %s has promised to form a cluster with %s", errs.Refused, m.ID, founding.Names(m.Promise))
		default:
			fresh = m.Cluster == ""
			m.Cluster, m.Promise = a.Cluster, nil
			if fresh { // until it has heard of a configuration
				m.Places = map[raft.ServerID]disk.PlacePromise{m.ServerID(): {To: j.Addr}}
			}
		}
	})
	if err != nil || refusal != nil {
		return nil, errors.Join(err, refusal)
	}
	if fresh {
		j.Log.Info("admitted", "cluster", a.Cluster)
	}
	if fresh || a.Addr == j.Addr { // nobody can have voted in its place before it is admitted
		j.TakePlace()
	}
	return nil, nil
}
