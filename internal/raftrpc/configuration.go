package raftrpc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// DecodeConfiguration decodes a configuration as raft does, which panics on what is none, and wants what raft wants of each
// before a leader may write it: ids and addresses, each once, and a voter.
func DecodeConfiguration(data []byte) (raft.Configuration, error) {
	var config raft.Configuration
	r := bytes.NewReader(data)
	m := message{r: bufio.NewReaderSize(r, 16), limit: len(data)}
	if err := m.read(); err != nil {
		return config, fmt.Errorf("decode configuration: %w", err)
	}
	if err := decode(data, &config); err != nil {
		return config, fmt.Errorf("decode configuration: %w", err)
	}
	return config, checkConfiguration(config)
}

func checkConfiguration(config raft.Configuration) error {
	ids, addrs, voters := map[raft.ServerID]bool{}, map[raft.ServerAddress]bool{}, 0
	for _, m := range config.Servers {
		switch {
		case m.ID == "" || m.Address == "":
			return errors.New("a configuration with a member without id or address")
		case ids[m.ID] || addrs[m.Address]:
			return fmt.Errorf("a configuration with a member twice: %.100q at %.100q", m.ID, m.Address)
		case m.Suffrage < raft.Voter || m.Suffrage > raft.Staging:
			return fmt.Errorf("a configuration with suffrage %d", m.Suffrage)
		}
		ids[m.ID], addrs[m.Address] = true, true
		if m.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters == 0 {
		return errors.New("a configuration without a voter")
	}
	return nil
}
