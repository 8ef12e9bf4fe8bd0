package e2e

import (
	"testing"
	"time"
)

// TestSteady runs, one after another on one cluster, the scenarios that leave it as they found it.
func TestSteady(t *testing.T) {
	begun := time.Now()
	c := startCluster(t, shape{})
	took := time.Since(begun)
	slow := slowness(t)
	t.Logf("cold start of three nodes to readyz on all: %v, on a machine that is %.1f times slower", took.Round(time.Millisecond), slow)
	if most := time.Duration(slow * float64(5*time.Second)); took > most {
		t.Errorf("cold start takes %v; want less than %v", took, most)
	}
	for _, scenario := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"idle costs", idleCosts},
		{"peak, use and fairness", peakUseFairness},
		{"log entries below the limit", logEntriesBelowLimit},
		{"limit set through each node", limitThroughEachNode},
		{"compare and set", compareAndSet},
		{"queue is first come first served", queueOrder},
		{"queue timeout", queueTimeout},
		{"queue size", queueSize},
		{"waiting client goes away", waiterGoesAway},
		{"refusals", refusals},
		{"spellings of a host", spellings},
		{"slots move to demand", slotsMoveToDemand},
		{"kept-alive connections give way", keptAliveGivesWay},
		{"idle slots come back", idleSlotsComeBack},
		{"lowering a limit", loweringLimit},
		{"lowering a limit with evict", evict},
		{"first limit on open connections", firstLimit},
		{"curl", curl},
		{"weir exec", weirExec},
		{"command line", commandLine},
		{"reload", reload},
		{"proxy node", proxyNode},
		{"data directory in use", dataDirInUse},
		{"port taken", portTaken},
		{"name taken", nameTaken},
	} {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, c) })
	}
}
