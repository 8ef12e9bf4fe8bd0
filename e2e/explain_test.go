package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/e2e/load"
)

// explanation is the part of GET /v1/explain that is compared.
type explanation struct {
	Admitted bool `json:"admitted"`
	Limits   []struct {
		Scope    string `json:"scope"`
		Pattern  string `json:"pattern"`
		Key      string `json:"key"`
		Why      string `json:"why"`
		Admitted bool   `json:"admitted"`
		Reason   string `json:"reason"`
	} `json:"limits"`
}

func (c *client) explain(host, from string) (e explanation, err error) {
	err = c.read("/v1/explain?"+url.Values{"host": {host}, "client": {from}}.Encode(), &e)
	return e, err
}

// inTheWay is how the phrase of a refusal begins: with the first limit that would not let it in.
// All slots are taken before the first token.
func (e *explanation) inTheWay() string {
	for _, tokens := range []bool{false, true} {
		for _, l := range e.Limits {
			switch {
			case l.Admitted || strings.Contains(l.Reason, "the rate") != tokens:
			case l.Scope == "total":
				return "weir: all workers together "
			case l.Key == "*":
				return "weir: all " + l.Scope + "s together "
			case strings.Contains(l.Key, "/"): // a shared network
				return "weir: all " + l.Scope + "s of " + l.Key + " together "
			case l.Scope == "host":
				return "weir: " + l.Key + " "
			default:
				return "weir: " + l.Scope + " " + l.Key + " "
			}
		}
	}
	return "no limit"
}

// explained is a table of limits, and who and what it is asked about.
type explained struct {
	hosts   []host
	workers []*worker
	limits  []map[string]any
}

// randomTable has some patterns of each scope, of those that overlap, with few connections and
// tokens.
func randomTable(t *testing.T, c *cluster, rng *rand.Rand, i int) *explained {
	t.Helper()
	e := &explained{hosts: []host{c.upstream(t), c.upstream(t)}}
	for j := range 3 {
		e.workers = append(e.workers, from(fmt.Sprintf("127.6.%d.%d", i, j+1)))
	}
	network := fmt.Sprintf("127.6.%d.0/24", i)
	for _, one := range []struct {
		scope, pattern string
		wide           bool
	}{
		{"host", e.hosts[0].name, false}, {"host", e.hosts[0].target, false}, {"host", "127.77.0.0/16", true}, {"host", "*", true},
		{"client", e.workers[0].address, false}, {"client", network, true}, {"client", "*", true}, {"total", "", false},
	} {
		if rng.IntN(3) == 0 {
			continue
		}
		l := map[string]any{"scope": one.scope, "pattern": one.pattern}
		if rng.IntN(4) > 0 {
			l["connections"] = rng.IntN(4)
		}
		if i%2 == 1 && rng.IntN(2) == 0 {
			l["requests"] = map[string]any{"rate": "1/h", "burst": 1 + rng.IntN(3)}
		}
		if one.wide && rng.IntN(2) == 0 {
			l["shared"] = true
		}
		if rng.IntN(5) == 0 {
			l["mode"] = "report"
		}
		e.limits = append(e.limits, l)
	}
	return e
}

// TestExplainIsRight: what /v1/explain says of a connection is what happens to one, on whatever
// node, in tables whose limits overlap.
func TestExplainIsRight(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{})
	rng := seeded(t)
	admitted, refused := 0, 0
	for i := range 16 {
		e := randomTable(t, c, rng, i)
		body, err := json.Marshal(map[string]any{"limits": e.limits})
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[i%3].http.must(t, http.StatusOK, "PUT", "/v1/limits", string(body), nil)
		c.awaitSame(t, "/v1/limits")
		var held []*load.Tunnel
		for j := range 12 {
			n, h, w := c.nodes[rng.IntN(3)], e.hosts[rng.IntN(2)], e.workers[rng.IntN(3)]
			if j%4 == 3 {
				if compareExplainedSOCKS5(t, n, h.target, w, string(body)) {
					admitted++
				} else {
					refused++
				}
			}
			tunnel := compareExplained(t, n, h.target, w, string(body))
			if t.Failed() {
				return
			}
			if tunnel == nil {
				refused++
				continue
			}
			admitted++
			held = append(held, tunnel)
		}
		end(t, held...)
		for _, h := range e.hosts {
			h.awaitOpen(t, 2*time.Second, 0)
		}
	}
	t.Logf("%d admitted, %d refused", admitted, refused)
	if admitted < 20 || refused < 20 {
		t.Errorf("%d admitted, %d refused: the tables ask too little", admitted, refused)
	}
}

// compareExplained asks what would happen, and looks what does. What another has let go of may take
// a moment to be seen everywhere: a difference must not last.
func compareExplained(t *testing.T, n *node, target string, w *worker, table string) (tunnel *load.Tunnel) {
	t.Helper()
	eventually(t, 2*time.Second, "explain of node "+n.name+" is right, under "+table, func() error {
		says, err := n.http.explain(target, w.address)
		if err != nil {
			return err
		}
		var why error
		var refused *load.Refusal
		tunnel, why = w.try(n, target)
		switch {
		case (why == nil) != says.Admitted:
			if tunnel != nil {
				end(t, tunnel)
			}
			return fmt.Errorf("%s to %s: it says %+v; what happens is: %v", w.address, target, says, why)
		case why != nil && (!errors.As(why, &refused) || !strings.HasPrefix(refused.Phrase, says.inTheWay())):
			return fmt.Errorf("%s to %s: it says %q; what happens is: %v", w.address, target, says.inTheWay(), why)
		}
		return nil
	})
	return tunnel
}

// compareExplainedSOCKS5 is compareExplained for SOCKS5, whose refusals name no limit. It ends a
// tunnel that is opened at once.
func compareExplainedSOCKS5(t *testing.T, n *node, target string, w *worker, table string) (admitted bool) {
	t.Helper()
	eventually(t, 2*time.Second, "explain of node "+n.name+" is right of SOCKS5, under "+table, func() error {
		says, err := n.http.explain(target, w.address)
		if err != nil {
			return err
		}
		reply, err := w.trySOCKS5(n, target)
		if err != nil {
			return err
		}
		admitted = reply == socksGranted
		if says.Admitted != admitted || !admitted && reply != socksFailed && reply != socksBlocked {
			return fmt.Errorf("%s to %s: it says %+v; the reply is %d", w.address, target, says, reply)
		}
		return nil
	})
	return admitted
}

// Replies of SOCKS5. A limit of 0 blocks.
const (
	socksGranted = 0
	socksFailed  = 1
	socksBlocked = 2
)

// trySOCKS5 asks for a tunnel by SOCKS5, ends it, and returns the reply.
func (w *worker) trySOCKS5(n *node, target string) (reply byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := w.caller.Dial(ctx, n.proxy)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	message, err := socksMessage(target)
	if err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, message); err != nil {
		return 0, err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) < 4 {
		err = fmt.Errorf("the answer is %q", answer)
	}
	if err != nil {
		return 0, err
	}
	return answer[3], nil
}

// TestExplainSaysWhy: of each scope the limit that wins, under which name it counts, and why.
func TestExplainSaysWhy(t *testing.T) {
	t.Parallel()
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	up := c.upstream(t)
	c.put(t, "host", up.name, connections(5))
	c.put(t, "host", up.target, connections(3))
	c.put(t, "client", "127.7.0.0/16", `{"connections":4,"shared":true}`)
	c.put(t, "client", "*", connections(1))
	c.put(t, "total", "", connections(9))
	c.put(t, "connection", "", `{"bandwidth":{"download":"5MB"}}`)
	says, err := n.http.explain(up.target, "127.7.8.9")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range says.Limits {
		if l.Why == "" {
			t.Errorf("%+v does not say why", l)
		}
		got = append(got, l.Scope+" "+l.Pattern+" as "+l.Key)
	}
	want := "total  as , client 127.7.0.0/16 as 127.7.0.0/16, host " + up.target + " as " + up.target + ", connection  as "
	if strings.Join(got, ", ") != want || !says.Admitted {
		t.Errorf("%s (admitted: %v); want %s", strings.Join(got, ", "), says.Admitted, want)
	}
	stdout, stderr, code := n.weir(t, "explain", up.target, "--client", "127.7.8.9")
	for _, part := range []string{up.target, "127.7.0.0/16", "total", "connection"} {
		if code != 0 || !strings.Contains(stdout, part) {
			t.Errorf("weir explain: exit code %d, without %q:\n%s%s", code, part, stdout, stderr)
		}
	}
}
