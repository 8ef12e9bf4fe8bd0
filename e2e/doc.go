// Package e2e runs the built binary as a user would, real processes and real sockets, and holds it
// to what it promises. The judge is the upstream: how many connections did it see at once?
//
// TestMain builds cmd/weir; WEIR_E2E_BIN names a binary to use instead, and WEIR_E2E_RACE=1 builds
// with the race detector. WEIR_E2E_LOGS names a directory that keeps the nodes' logs and
// configuration; without it the end of each log is printed when a test fails.
//
// The partition scenarios put every node, and the upstream, into a network namespace of its own and
// break the network between them (package netns); they need root. The upstream's time line is
// judged afterwards (package judge): what is open, from whom, at each instant, and what a node
// still sends after its lease has run out. Clients reach a node from inside its namespace, where no
// partition comes between. Times to recover are held to what is promised, unless the machine itself
// stood still meanwhile; the limit is held to always.
//
// Rates are judged by their receiver: the upstream notes when each request and each byte has come,
// or the client does, and in every window of time no more may come than rate × t + burst. What has
// begun is seen a little later. How late it may be is measured meanwhile with requests that no
// limit holds back, and added to t.
//
// The disk scenarios mount a file system of its own for every node and fill it, make the kernel
// believe that it is damaged, or freeze it; they, and that of clocks which have nothing in common,
// need root. Clocks that jump are those of a second binary, built with -tags faults
// (WEIR_E2E_FAULTS names one to use instead). WEIR_E2E_LINEAR=10m makes the check of
// linearisability, whose judge is package linear, that long. WEIR_E2E_NAMES=1000000 asks one node
// for as many host names.
//
// The lines of docs/workers.md are run by the clients that they are for. With WEIR_E2E_RECIPES=1,
// which make recipes sets, all are run, and a client that is missing is an error; without it, those
// that start quickly and are here. A recipe that is not run says so in the output of go test -v.
//
// A scenario that breaks a cluster has one of its own; those that leave it as they found it share
// one, each with an upstream address of its own, which makes it a host of its own to the limits.
// Nothing waits for a time to pass but measurements: all else waits for a condition, with a
// deadline. Ratios are measured over some seconds and, on a machine that is busy with other things,
// over some more; peaks have no second chance.
package e2e
