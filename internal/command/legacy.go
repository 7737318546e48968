package command

import (
	"encoding/json"
	"fmt"
)

// IsLegacy reports whether an entry is one of hraftd's: JSON, whose first byte is no version of this package's format.
func IsLegacy(entry []byte) bool {
	return len(entry) > 0 && entry[0] == '{'
}

// DecodeLegacy returns what an entry of hraftd does: a Set or a Delete. Whatever hraftd applied is taken, and in the same
// way: it leaves out an empty key or value, and so either may be missing.
func DecodeLegacy(entry []byte) (Op, error) {
	var legacy struct {
		Op    string `json:"op"`
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(entry, &legacy); err != nil {
		return Op{}, fmt.Errorf("decode log entry of hraftd: %w", err)
	}
	switch legacy.Op {
	case "set":
		return Op{Kind: Set, Key: legacy.Key, Value: []byte(legacy.Value)}, nil
	case "delete":
		return Op{Kind: Delete, Key: legacy.Key}, nil
	}
	return Op{}, fmt.Errorf("decode log entry of hraftd: unknown operation %q", legacy.Op)
}
