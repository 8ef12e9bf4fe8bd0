// Package accesslog writes one line for each finished tunnel or request, in the logger's format but
// past the logger: without reflection, a lock or a system call for each. It also has the sampler
// that bounds how often lines are repeated which clients can cause.
package accesslog
