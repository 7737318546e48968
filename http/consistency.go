package kvhttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kvraft/kvraft"
)

// readOptions are those of the level that the query of a read asks for.
func readOptions(query url.Values) ([]kvraft.ReadOption, error) {
	bounds, err := stalenessBounds(query)
	if err != nil {
		return nil, err
	}
	name, ok, err := parameter(query, "consistency")
	if err != nil || !ok {
		return bounds, err
	}
	var level kvraft.ReadOption
	switch name {
	case "linearizable":
		level = kvraft.Linearizable
	case "leader":
		level = kvraft.LeaderLocal
	case "stale":
		return append(bounds, kvraft.Stale), nil
	default:
		return nil, refuse(http.StatusBadRequest, "consistency %q: there are linearizable, leader and stale", name)
	}
	if len(bounds) > 0 {
		return nil, refuse(http.StatusBadRequest, "max_staleness and at_least bound a read of what this node has, and consistency=%s asks the leader: use one or the other", name)
	}
	return []kvraft.ReadOption{level}, nil
}

// stalenessBounds are what keeps a read of this node's own state from being too
// old; all of them apply.
func stalenessBounds(query url.Values) (bounds []kvraft.ReadOption, err error) {
	text, ok, err := parameter(query, "max_staleness")
	if err != nil {
		return nil, err
	}
	if ok {
		d, err := parseDuration(text)
		if err != nil || d <= 0 {
			return nil, refuse(http.StatusBadRequest, "max_staleness %q: want a duration above 0 such as 500ms, or a number of seconds", text)
		}
		bounds = append(bounds, kvraft.MaxStaleness(d))
	}
	text, ok, err = parameter(query, "at_least")
	if err != nil {
		return nil, err
	}
	if ok {
		version, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "at_least %q: want a version, without quotes", text)
		}
		bounds = append(bounds, kvraft.AtLeast(version))
	}
	return bounds, nil
}

// parseDuration takes a plain number for seconds.
func parseDuration(text string) (time.Duration, error) {
	if strings.Trim(text, "0123456789.") == "" {
		text += "s"
	}
	return time.ParseDuration(text)
}
