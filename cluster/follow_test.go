package cluster

import (
	"fmt"
	"testing"

	"github.com/weirproxy/weir/cluster/rpcport"
)

// What is remembered of members' addresses goes with them.
func TestDepartedAddressesAreForgotten(t *testing.T) {
	t.Parallel()
	c := &Cluster{port: rpcport.New(rpcport.Config{})}
	had := map[string]string{}
	for i := range 100 {
		all := []Member{{Name: "a", RPCAddr: "127.0.0.1:1"}, {Name: fmt.Sprint("b-", i), RPCAddr: fmt.Sprint("127.0.0.1:", i+2)}}
		c.dropDeparted(had, all)
		if len(had) != 2 {
			t.Fatalf("%d addresses are remembered of 2 members", len(had))
		}
	}
}
