package handshake

// Greeting begins every answer on a node's rpc and gossip port. A node's proxy closes a tunnel
// whose upstream begins with it. So a client of a proxy never sees the nonce that follows, and
// can't take part as a node, whatever address, route or translation led it there.
const Greeting = "\x00weir\x02\r\n"
