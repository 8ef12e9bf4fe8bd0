package server

import (
	_ "embed"
	"net/http"
)

// openAPI describes the API for programs. It is written by hand; the tests compare it with the
// routes, with the types, and with every answer that any of them gets.
//
//go:embed openapi.json
var openAPI []byte

// description answers GET /v1/openapi.json.
func (s *Server) description(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	reply{status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: openAPI}.write(w)
	return nil
}
