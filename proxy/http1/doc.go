// Package http1 parses and writes the messages of HTTP/1.x as a proxy needs them: heads, fields,
// framing and content (RFC 9110, RFC 9112). Whatever two parsers could read differently is refused,
// or repaired and written anew. It works on bytes, through [Input] and [Output], and knows no
// socket. It is fuzzed against net/http.
package http1
