//go:build !windows

package main_test

import "syscall"

func (p *process) suspend() { p.signal(syscall.SIGSTOP) }
func (p *process) resume()  { p.signal(syscall.SIGCONT) }

// runAs makes the process that of another user. Only root may.
func (p *process) runAs(user uint32) {
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
}
