// Package sock has non-blocking TCP sockets for a proxy. Every read and write waits for readiness,
// asks whether the connection may still be used, takes its bytes from a meter if there is one, and
// then makes one system call. The package also has what surrounds them: listening and connecting,
// buffers, relaying without copying, an event set for many quiet sockets, and the detection of
// peers that hang up. It imports nothing of ours; what it asks of its users are small interfaces.
//
// Files named for a system have what differs between kernels: events (epoll, kqueue), tcp (the
// state of a connection), system and direct (fewer and cheaper system calls), splice (relaying
// without copying), local (whether an address is this machine's). The build tag portable selects
// the portable ones on Linux too; that is how they are tested.
//
// # Sockets and hang-ups
//
// Sockets belong to the runtime's poller, without package net, which saves options and addresses
// that most connections don't need. The cost is connecting by hand.
//
// One event set watches for peers that hang up while nothing reads their socket: clients in the
// queue, tunnels stuck in a write, kept-alive upstreams. It costs no goroutine per connection and
// sees a FIN behind unread bytes. Most waits are short, so a socket joins the set only after a wait
// of 5 ms, the client of a plain request within 10 ms. The set ties the package to Linux and macOS.
package sock
