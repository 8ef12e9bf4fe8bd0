package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/weirproxy/weir/limit"
)

// Digest is a short hash, 16 hex digits, of what must be the same on all nodes: the lease's ttl and
// the limits. It depends neither on the order or spelling in the files nor on where a limit came
// from. Nodes gossip it, so that one whose config disagrees can be named.
//
// A limit on connections to a host is hashed as in the versions that knew no other, so that nodes of
// two versions agree where their files do.
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

// Diff names the settings that differ, by path, in the order of the reference: those that a reload
// applies, and those that wait for a restart. The limits are one setting, "limits". A file of
// tokens or users is changed where its content is.
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

// needsRestart names the changes that a reload must leave although it applies others of the same
// setting: the encryption of gossip can't be turned on or off, and the token must not go while the
// listener that it guards stays.
func needsRestart(path string, before, after *Config) bool {
	switch path {
	case "cluster.gossip_key", "cluster.gossip_accept_keys":
		return (before.Cluster.GossipKey == "") != (after.Cluster.GossipKey == "")
	case "api.token_file", "api.read_token_file":
		return !TokensCanChange(before, after)
	}
	return false
}

// TokensCanChange reports whether a reload may take the API's tokens: a config without any was
// judged by its own api.listen.
func TokensCanChange(before, after *Config) bool {
	return after.API.Token != "" || before.API.Listen == after.API.Listen
}

// sameLimit ignores where a limit is written.
func sameLimit(a, b Limit) bool { return a.Limit == b.Limit }
