package config

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/limit"
)

// TestComplete: values that a program sets are checked as if they were written in a file, and
// completed in the same way.
func TestComplete(t *testing.T) {
	complete := func(change func(*Config)) (*Config, string) {
		c := Default(true)
		c.Name = "a"
		change(c)
		var all []string
		for _, p := range c.Complete(Options{}) {
			all = append(all, p.String())
		}
		return c, strings.Join(all, "\n")
	}
	b, err := limit.ParsePattern("b.test")
	if err != nil {
		t.Fatal(err)
	}
	one := Limit{Limit: limit.Limit{Pattern: b, Connections: 1, Source: limit.SourceConfig}}
	for _, c := range []struct {
		change func(*Config)
		wrong  string // part of the one problem; "": none
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Proxy.Listen, c.API.Listen = nil, "" }, ""},
		{func(c *Config) { c.Proxy.AccessLog = "/no${such}/directory" }, "does not exist: /no${such}/directory"},
		{func(c *Config) { c.Lease.TTL = time.Hour }, "lease.ttl: \"1h\" is out of range"},
		{func(c *Config) { c.Lease.OnExpiry = "explode" }, "lease.on_expiry: "},
		{func(c *Config) { c.API.Listen, c.API.Token = "0.0.0.0:1", "secret" }, ""},
		{func(c *Config) { c.Proxy.Listen = []string{"0.0.0.0:1"} }, "allow_clients is not set"},
		{func(c *Config) { c.Cluster.GossipKey = "short" }, "a gossip key holds 5 bytes"},
		{func(c *Config) { c.Limits = []Limit{one, one} }, "there are two limits for b.test"},
		{func(c *Config) { c.Limits = []Limit{{Limit: limit.Limit{Pattern: b, Connections: -5}}} }, "connections is -5"},
	} {
		_, wrong := complete(c.change)
		if (wrong == "") != (c.wrong == "") || !strings.Contains(wrong, c.wrong) || strings.Contains(wrong, "\n") {
			t.Errorf("%q; want %q", wrong, c.wrong)
		}
	}
	got, wrong := complete(func(c *Config) { c.Cluster.Join = []string{"10.0.0.1:8083"}; c.API.ReadToken = "r" })
	if wrong != "" || got.Cluster.BootstrapExpect != 0 || got.API.ReadToken != "r" || len(got.Origins) != 0 {
		t.Errorf("%s; %+v", wrong, got.Cluster)
	}
}
