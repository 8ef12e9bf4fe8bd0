// Package resolve finds the addresses of names for a proxy: it reads the hosts file and
// resolv.conf, asks the name servers, and remembers their answers. A name means what it says: it is
// looked up absolute, and search domains do not apply. So a name that is counted under a limit
// can't be reached by another spelling.
//
// # Decisions
//
// Messages are made and read by github.com/miekg/dns (BSD licence, no dependency that is new here).
// The standard library's resolver gives neither TTLs nor one family before the other. The cost is
// that nsswitch.conf is not read: the hosts file comes first, then the name servers. RES_OPTIONS
// and mDNS do not apply either, nor, on macOS, resolvers other than those in resolv.conf.
//
// An answer is used for its TTL, the least on the way through its aliases. Absence is remembered
// for 5 seconds at most (RFC 2308), a failure for one. An answer with a TTL of 0 serves the
// connections that wait for it, and where these are several also those of the next second: without
// that, a busy name with TTL 0 would be asked for without a pause. A limit on TTLs of 0 remembers
// nothing of these.
//
// Both families are asked for at once, and the addresses of one wait at most 50 ms for the other's
// (RFC 8305, section 3). That holds for IPv6 too: the proxy tries one address at a time, so IPv6
// alone, broken on the way, would fail a connection that IPv4 could have had. A late family is
// remembered for later connections. One that does not come is not waited for the next time.
//
// One server is asked at first. The next is asked too after 400 ms, so a dead server costs that
// once. After that it is asked last for 30 s, and then beside another one, so that no lookup waits
// to find out whether it is back.
//
// Memory is bounded by names and bytes, lookups under way by the process's descriptors, every
// lookup by 30 seconds. A lookup whose clients have all left goes on, to be remembered.
//
// Each query has a socket and so a random port of its own, a random id, and takes answers from the
// server's address only, to its own question. There is no DNSSEC validation: trust ends at the name
// server.
package resolve
