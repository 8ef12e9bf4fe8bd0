package netns

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnavailable: this process may not make network namespaces, or the system has none.
var ErrUnavailable = errors.New("network namespaces need Linux and root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")

// Fault is what no longer gets through, in one direction.
type Fault struct {
	From, To []string // members

	// Ports limits the fault to TCP and UDP from or to these ports. Without them it takes every
	// frame, ARP included, as a pulled cable does, or every packet but ARP where there is KeepARP.
	Ports []int
	// KeepARP lets ARP pass. A fault in one direction needs it, or the other would fail too: who
	// never hears an answer can't address a frame.
	KeepARP bool
	// Percent drops this share of the packets at random; 0 means all.
	Percent int
}

// Cut keeps two sides from each other altogether.
func Cut(side, other []string) []Fault {
	return []Fault{{From: side, To: other}, {From: other, To: side}}
}

// CutPorts keeps two sides from each other on some ports.
func CutPorts(side, other []string, ports ...int) []Fault {
	return []Fault{{From: side, To: other, Ports: ports}, {From: other, To: side, Ports: ports}}
}

// OneWay keeps what from sends from reaching to.
func OneWay(from, to []string) []Fault { return []Fault{{From: from, To: to, KeepARP: true}} }

// Lossy drops a share of what two sides send each other.
func Lossy(percent int, side, other []string) []Fault {
	return []Fault{
		{From: side, To: other, KeepARP: true, Percent: percent}, {From: other, To: side, KeepARP: true, Percent: percent},
	}
}

// rules are the fault in nft's language.
func (f Fault) rules() []string {
	match := fmt.Sprintf("iifname %s oifname %s", ports(f.From), ports(f.To))
	verdict := "drop"
	if f.Percent > 0 {
		verdict = fmt.Sprintf("numgen random mod 100 < %d drop", f.Percent)
	}
	switch {
	case len(f.Ports) > 0:
		list := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(f.Ports)), ", "), "[]")
		return []string{
			fmt.Sprintf("%s meta l4proto { tcp, udp } th dport { %s } %s", match, list, verdict),
			fmt.Sprintf("%s meta l4proto { tcp, udp } th sport { %s } %s", match, list, verdict),
		}
	case f.KeepARP:
		return []string{match + " ether type != arp " + verdict}
	}
	return []string{match + " " + verdict}
}

// ports is a set of members' ends on the bridge.
func ports(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", port(name))
	}
	return "{ " + strings.Join(quoted, ", ") + " }"
}

// port is the name of a member's end on the bridge.
func port(name string) string { return "to-" + name }
