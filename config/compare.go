package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Digest returns a short hash, 16 hex digits, of the settings that must be equal on all nodes: the
// lease's ttl and the limits. It depends neither on their order or spelling in the files nor on a
// limit's source. Nodes spread it in gossip, so that a node whose config disagrees can be named.
//
// A limit on connections to a host is hashed as in the versions that knew no other limits, so that
// nodes of two versions agree if their files do.
func Digest(ttl time.Duration, limits []limit.Limit) string {
	limits = slices.Clone(limits)
	slices.SortFunc(limits, func(a, b limit.Limit) int { return a.Pattern.Compare(b.Pattern) })
	h := sha256.New()
	fmt.Fprintf(h, "v1 ttl %d\n", ttl)
	for _, l := range limits {
		if s := l.Pattern.Scope(); s != limit.ScopeHost {
			fmt.Fprintf(h, "%s ", s)
		}
		fmt.Fprintf(h, "%q %d %d %d %t", l.Pattern, l.Connections, l.Queue.Timeout, l.Queue.Size, l.Shared)
		if r := l.Requests; r != (limit.Rate{}) {
			fmt.Fprintf(h, " requests %d %d %d", r.Thousandths, r.Per, r.Burst)
		}
		if b := l.Bandwidth; b != (limit.Bandwidth{}) {
			fmt.Fprintf(h, " bandwidth %d %d %d", b.Upload, b.Download, b.Burst)
		}
		if l.Report {
			fmt.Fprint(h, " report")
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Diff returns the paths of the settings that differ, in the order of the reference: those that a
// reload applies, and those that wait for a restart. The limits are one setting, "limits". A file
// of tokens or users counts as changed if its content is.
func Diff(before, after *Config) (live, restart []string) {
	for _, f := range configFields() {
		if f.same(before, after) && !contentChanged(f.Path, before, after) {
			continue
		}
		if f.Reload && !needsRestart(f.Path, before, after) {
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

// needsRestart reports changes that need a restart although a reload applies others of the same
// setting: gossip encryption can't be turned on or off, and a token must not go while the listener
// that it guards stays.
func needsRestart(path string, before, after *Config) bool {
	switch path {
	case "cluster.gossip_key", "cluster.gossip_accept_keys":
		return (before.Cluster.GossipKey == "") != (after.Cluster.GossipKey == "")
	case "api.token_file", "api.read_token_file":
		return !TokensCanChange(before, after)
	}
	return false
}

// TokensCanChange reports whether a reload may change the API's tokens. A config without tokens was
// checked with its own api.listen, which a reload does not apply.
func TokensCanChange(before, after *Config) bool {
	return after.API.Token != "" || before.API.Listen == after.API.Listen
}

// sameLimit compares two limits, but not their positions.
func sameLimit(a, b Limit) bool { return a.Limit == b.Limit }
