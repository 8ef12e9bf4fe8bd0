// Package http1 parses and writes the messages of HTTP/1.x as a proxy needs them: heads, fields,
// framing and content (RFC 9110, RFC 9112). Whatever two parsers could read differently is refused,
// or repaired and written anew. It works on bytes, through [Input] and [Output], and knows no
// socket. It is fuzzed against net/http.
//
// # Parsing
//
// Heads are parsed without net/http. A request costs one pooled buffer, and
// malformed ones get a Proxy-Status. The cost is a parser to keep right; it is fuzzed against
// net/http's. Unsupported transfer codings and versions are malformed (400), and so is Max-Forwards
// 0. There is no upgrade to h2c.
//
// A head has header_timeout to arrive; the first one's begins with the connection. If some of it
// has come by then, the answer is 408; otherwise the connection is closed without one.
package http1
