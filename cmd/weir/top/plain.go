package top

import (
	"cmp"
	"time"
)

// Tables are the picture without a terminal: the rows of the nodes' table and of the hosts', each
// with its header first. Columns of numbers have a header that begins with a hyphen.
func (m *Model) Tables(now time.Time) (nodes, hosts [][]string) {
	if m.picture == nil {
		return nil, nil
	}
	nodes = [][]string{{"NODE", "ROLE", "LEADER", "HEALTH", "DRAINING", "SESSION", "-RECLAIM IN", "-IN USE", "-IDLE", "-GRANTED", "-WAITING", "-ADMITTED/S", "-REFUSED/S"}}
	for _, n := range m.picture.nodes {
		leader, draining, reclaim := "-", "-", "-"
		if n.Leader {
			leader = "leader"
		}
		if n.Draining {
			draining = "draining"
		}
		if n.ReclaimIn != nil {
			reclaim = m.reclaim(now, n)
		}
		row := []string{n.Name, cmp.Or(n.Role, "-"), leader, n.Health, draining, n.Session, reclaim, "-", "-", "-", "-", "-", "-"}
		if n.open {
			copy(row[7:], numbers(n.inUse, n.idle, n.granted, n.waiting, n.rate))
		}
		nodes = append(nodes, row)
	}
	hosts = [][]string{{"HOST", "-LIMIT", "-IN USE", "-IDLE", "-GRANTED", "-WAITING", "-ADMITTED/S", "-REFUSED/S"}}
	for _, h := range m.shown {
		limit := "none"
		if h.Limit != nil {
			limit = count(*h.Limit)
		}
		hosts = append(hosts, append([]string{h.Host.Host, limit}, numbers(h.InUse, h.Idle, h.Granted, h.Waiting, h.rate)...))
	}
	return nodes, hosts
}

func numbers(inUse, idle, granted, waiting int64, r rate) []string {
	return []string{count(inUse), count(idle), count(granted), count(waiting), perSecond(r.admitted), perSecond(r.refused)}
}
