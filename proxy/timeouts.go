package proxy

import "net/http"

// What a plain exchange that was given up is answered, where no answer has begun.
var (
	refuseClosed = refusal{status: http.StatusBadGateway, code: "connection_terminated",
		details: "an operator closed the connection"}
	refuseStalled = refusal{status: http.StatusRequestTimeout, code: "http_request_error",
		details: "the client stalled: it stopped sending the request's content"}
	refuseNoResponse = refusal{status: http.StatusGatewayTimeout, code: "http_response_timeout",
		details: "the upstream stalled: it did not answer in time"}
	refuseWriteTimeout = refusal{status: http.StatusGatewayTimeout, code: "connection_write_timeout",
		details: "the upstream stalled: it stopped taking the request"}
)
