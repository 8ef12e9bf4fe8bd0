package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

var hostLabel = regexp.MustCompile(`(?m)^weir_rejections_total\{host="([^"]+)"\} (\d+)$`)

// TestMetricsNameSoManyHosts: metrics_hosts bounds the hosts that /metrics names, and a reload changes it. Nothing is told twice,
// nor lost while a host keeps its name.
func TestMetricsNameSoManyHosts(t *testing.T) {
	c := startCluster(t, shape{names: []string{"a"}})
	n := c.nodes[0]
	c.setLimit(t, "*.many.example", connections(0))
	for i := range 7 {
		n.refuse(t, fmt.Sprintf("h%d.many.example:443", i), "connection_limit_reached")
	}
	bound := func(most int) {
		text, err := os.ReadFile(n.config)
		if err != nil {
			t.Fatal(err)
		}
		without := regexp.MustCompile(`\n  metrics_hosts = \d+`).ReplaceAllString(string(text), "")
		set := strings.Replace(without, "api {", fmt.Sprintf("api {\n  metrics_hosts = %d", most), 1)
		if err := os.WriteFile(n.config, []byte(set), 0o600); err != nil {
			t.Fatal(err)
		}
		a := n.http.must(t, http.StatusOK, "POST", "/v1/reload", "", nil)
		if !strings.Contains(string(a.body), "api.metrics_hosts") {
			t.Errorf("the reload answers %s", a.body)
		}
	}
	told := func(names, other int) {
		t.Helper()
		eventually(t, 5*time.Second, fmt.Sprintf("%d hosts named", names), func() error {
			a, err := n.http.call("GET", "/metrics", "", nil)
			if err != nil {
				return err
			}
			found := hostLabel.FindAllStringSubmatch(string(a.body), -1)
			rest := ""
			for _, f := range found {
				if f[1] == "other" {
					rest = f[2]
				}
			}
			if len(found) != names+1 || rest != fmt.Sprint(other) {
				return fmt.Errorf("%q", found)
			}
			return nil
		})
	}
	told(7, 0)
	bound(3)
	told(3, 0) // what the others had was told under their names
	bound(0)
	told(0, 0)
	n.refuse(t, "h1.many.example:443", "connection_limit_reached")
	told(0, 1)
}
