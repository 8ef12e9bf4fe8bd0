package cluster

// Greeting is the first thing that a node sends on each connection that it accepts on its rpc port, and on its gossip port
// over TCP. No other server begins like this. A proxy that sees it as an upstream's first bytes has connected a client to
// a node, and cuts the connection before the client can answer.
const Greeting = "\x00weir\x02\r\n"
