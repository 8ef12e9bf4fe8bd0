package cluster

// Greeting is how every answer on a node's rpc and gossip port begins. A node's proxy ends a tunnel
// whose upstream begins with it: so a client of a proxy never sees the nonce that follows, and
// can't take part as a node, whatever address, route or translation led it there.
const Greeting = "\x00weir\x02\r\n"
