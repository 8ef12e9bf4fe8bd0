package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAuditTrail reads, in the logs of real processes, who has changed what: the leader's for the
// cluster, a node's own for itself.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	const token = "open-sesame"
	c := startCluster(t, shape{limits: "  host \"config.example\" {\n    connections = 1\n  }\n", prepare: func(n *node) {
		n.token = filepath.Join(filepath.Dir(n.config), "token")
		if err := os.WriteFile(n.token, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}})
	header := map[string]string{"Authorization": "Bearer " + token}
	var leader, other *node
	eventually(t, 10*time.Second, "a leader", func() error {
		for _, n := range c.nodes {
			a, err := n.http.call("GET", "/v1/status", "", header)
			if err != nil {
				return err
			}
			if strings.Contains(string(a.body), `"state":"leader"`) {
				leader = n
			} else {
				other = n
			}
		}
		if leader == nil || other == nil {
			return fmt.Errorf("none is known")
		}
		return nil
	})
	one := "/v1/limits/host/x.example"
	other.http.must(t, http.StatusOK, "PUT", one, connections(5), header)
	other.http.must(t, http.StatusOK, "PUT", one+"?evict=true", connections(2), header)
	other.http.must(t, http.StatusOK, "DELETE", one, "", header)
	other.limits = "  host \"config.example\" {\n    connections = 7\n  }\n"
	other.writeConfig(t)
	other.http.must(t, http.StatusOK, "POST", "/v1/reload", "", header)
	other.limits = "  host \"config.example\" {\n    connections = 8\n  }\n"
	other.writeConfig(t)
	other.signal(t, syscall.SIGHUP)
	other.http.must(t, http.StatusAccepted, "POST", "/v1/drain", "", header)

	by := fmt.Sprintf(` client=127\.0\.0\.1:\d+ auth=token through=%s$`, other.name)
	for _, want := range []string{
		`limit changed: scope=host pattern=x\.example action=add before=none after="5 connections" source=api index=\d+` + by,
		`limit changed: scope=host pattern=x\.example action=change before="5 connections" after="2 connections" source=api index=\d+` + by,
		`connections above the limit are being closed: scope=host pattern=x\.example index=\d+` + by,
		`limit changed: scope=host pattern=x\.example action=remove before="2 connections" after=none source=api index=\d+` + by,
		`limit changed: scope=host pattern=config\.example action=change before="1 connection" after="7 connections" source=config index=\d+` + by,
		`limit changed: scope=host pattern=config\.example action=change before="7 connections" after="8 connections" source=config index=\d+ client="" auth="" through=` + other.name,
	} {
		leader.audits(t, want)
	}
	other.audits(t, `configuration reloaded: applied=\["?limits"?\] need_restart=\[\]`+by)
	other.audits(t, `draining:`+by)
	for _, n := range c.nodes {
		log, err := os.ReadFile(n.logPath)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(log), token) {
			t.Errorf("node %s logs the token", n.name)
		}
	}
}

// audits waits until the node's log has a line of the audit like this one.
func (n *node) audits(t *testing.T, want string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)weir\.api\.audit: ` + want)
	eventually(t, 5*time.Second, fmt.Sprintf("node %s: %s", n.name, want), func() error {
		log, err := os.ReadFile(n.logPath)
		if err == nil && !line.Match(log) {
			err = fmt.Errorf("there are %q", regexp.MustCompile(`(?m)weir\.api\.audit: .*$`).FindAllString(string(log), -1))
		}
		return err
	})
}
