// Package auth says who a client is: a user, by name and password, behind a gate that slows down
// guessing; or, for connections from a load balancer, the address in its PROXY protocol header. It
// parses and decides, and reads no socket.
package auth
