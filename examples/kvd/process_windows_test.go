package main_test

func (p *process) suspend() { p.t.Skip("no signal suspends a process on Windows") }
func (p *process) resume()  {}

func (p *process) runAs(uint32) { p.t.Skip("there is no root on Windows") }
