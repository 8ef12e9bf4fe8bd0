package server

import (
	"testing"

	"go.uber.org/goleak"
)

// net/http keeps a connection that it has refused for another half second, so that the answer isn't
// lost to a reset; that sleep, and nothing else, may outlast the tests.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}
