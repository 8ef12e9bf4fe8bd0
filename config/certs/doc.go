// Package certs reads, checks, keeps and makes the certificates of weir's listeners.
//
// [Read] reads one listener's files and names everything that is wrong with them; a [Source] keeps
// what they hold and follows the files while the node runs; an [Authority] is a private CA that
// makes certificates for nodes.
//
// # Decisions
//
// A node's certificate carries two DNS names: [ClusterName], the same for all, is what a node
// verifies when it dials an address, and [NodeName] says which node it is. They are ordinary names,
// so any CA software can make them. A certificate without ClusterName is none of a node, though the
// same CA has signed it: workers' and operators' certificates may come from it too.
//
// An expired certificate is told apart from a broken one, because a node that starts with it can
// still do something, and one that doesn't start can't.
//
// Files are followed by reading them every few seconds, which works wherever a file can be read; a
// notification would not see what changes behind a symbolic link or on a network's file system.
// What has changed is taken once it has been the same twice in a row: a certificate and its key are
// two files, and are never replaced at the same moment.
package certs
