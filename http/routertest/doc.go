// Package routertest mounts the handler of package kvhttp on routers that Go
// programs use, and tests which keys reach the store through them. It is a
// module of its own to keep the routers out of kvraft's.
package routertest
