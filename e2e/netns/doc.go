// Package netns builds networks for tests out of Linux network namespaces, and breaks them: members
// with an interface each, one bridge between them in a namespace of its own, and nftables on that
// bridge to drop what a partition would.
//
// No namespace has a name. Each lives by an open file of this process and by the processes inside,
// so that a test that is killed leaves nothing behind once its children are gone, and tests can't
// meet each other's. Nothing of the machine's own network is touched: an interface is made and
// configured where nobody else is.
//
// It needs Linux, root (CAP_SYS_ADMIN and CAP_NET_ADMIN), ip, tc, nft and nsenter: see [Missing].
package netns
