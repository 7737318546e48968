package boltlog

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockHolders names the processes that have the file at path locked, as far as the
// kernel tells: those outside of this container, for example, have no number here.
func lockHolders(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer locks.Close()
	dev := uint64(stat.Dev)
	device := fmt.Sprintf("%02x:%02x", dev>>8&0xfff|dev>>32&^0xfff, dev&0xff|dev>>12&^0xff)
	var holders []string
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 709 fe:00:131123 0 EOF
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		on, sameInode := strings.CutSuffix(f[5], fmt.Sprintf(":%d", stat.Ino))
		pid, err := strconv.Atoi(f[4])
		if !sameInode || err != nil || pid <= 0 {
			continue
		}
		if on == device || hasOpen(pid, info) { // btrfs and overlayfs number devices differently here and there
			holders = append(holders, describeProcess(pid))
		}
	}
	return strings.Join(holders, " and ")
}

func hasOpen(pid int, file os.FileInfo) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is a good one
	for _, fd := range fds {
		if info, err := os.Stat(fd); err == nil && os.SameFile(info, file) {
			return true
		}
	}
	return false
}

func describeProcess(pid int) string {
	if pid == os.Getpid() {
		return fmt.Sprintf("this process (pid %d)", pid)
	}
	const longest = 200
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return fmt.Sprintf("pid %d", pid)
	}
	shown := strings.TrimRight(strings.ReplaceAll(string(line), "\x00", " "), " ")
	if len(shown) > longest {
		shown = shown[:longest] + "..."
	}
	return fmt.Sprintf("pid %d (%s)", pid, shown)
}
