package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Digest is a short hash, 16 hex digits, of what must be the same on all nodes: the lease's ttl and the limits. It doesn't
// depend on the order or spelling in the files. Nodes gossip it, so that one whose config disagrees can be named.
func Digest(c *Config) string {
	limits := slices.Clone(c.Limits)
	slices.SortFunc(limits, func(a, b Limit) int { return cmp.Compare(a.Pattern, b.Pattern) })
	h := sha256.New()
	fmt.Fprintf(h, "v1 ttl %d\n", c.Lease.TTL)
	for _, l := range limits {
		fmt.Fprintf(h, "%q %d %d %d %t\n", l.Pattern, l.Connections, l.Queue.Timeout, l.Queue.Size, l.Shared)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Diff names the settings that differ, by path, in the order of the reference: those that a reload applies, and those
// that wait for a restart. The limits are one setting, "limits". A file of tokens or users is changed where its content is.
func Diff(before, after *Config) (live, restart []string) {
	for _, f := range configFields() {
		if f.same(before, after) && !contentChanged(f.Path, before, after) {
			continue
		}
		if f.Reload && !turnsEncryption(f.Path, before, after) {
			live = append(live, f.Path)
		} else {
			restart = append(restart, f.Path)
		}
	}
	if !slices.EqualFunc(before.Limits, after.Limits, sameLimit) {
		live = append(live, "limits")
	}
	return live, restart
}

func contentChanged(path string, before, after *Config) bool {
	switch path {
	case "proxy.users_file":
		return !slices.Equal(before.Proxy.Users, after.Proxy.Users)
	case "api.token_file":
		return before.API.Token != after.API.Token
	case "api.read_token_file":
		return before.API.ReadToken != after.API.ReadToken
	}
	return false
}

// turnsEncryption reports whether a change of keys turns the encryption of gossip on or off, which takes a restart.
func turnsEncryption(path string, before, after *Config) bool {
	keys := path == "cluster.gossip_key" || path == "cluster.gossip_accept_keys"
	return keys && (before.Cluster.GossipKey == "") != (after.Cluster.GossipKey == "")
}

// sameLimit ignores where a limit is written.
func sameLimit(a, b Limit) bool {
	a.At, b.At = Position{}, Position{}
	return a == b
}
