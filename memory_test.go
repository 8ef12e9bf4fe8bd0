package weir_test

import (
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/weirproxy/weir"
)

// embedding makes the test binary a program that embeds a node: it prints its memory before and
// after.
const embedding = "WEIR_TEST_EMBEDDING"

func resident() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(rest)[0])
	return kib
}

// A program that embeds a node grows by less than 25 MB, also once the node has served.
func TestMemoryOfAnEmbeddedNode(t *testing.T) {
	if os.Getenv(embedding) != "" {
		up := upstream(t)
		before := resident()
		n := start(t, weir.Config{Proxy: "127.0.0.1:0", API: "127.0.0.1:0", Limits: []weir.Limit{weir.HostLimit("*", 100)}})
		for range 200 {
			get(t, n, up.URL)
		}
		resp, err := http.Get(n.APIURL().String() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		t.Logf("grown by %d KiB", resident()-before)
		return
	}
	if resident() == 0 {
		t.Log("this system does not say how much memory a process has")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfAnEmbeddedNode$", "-test.v")
	cmd.Env = append(os.Environ(), embedding+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, rest, found := strings.Cut(string(out), "grown by ")
	kib, err := strconv.Atoi(strings.Fields(rest + " x")[0])
	if !found || err != nil {
		t.Fatalf("%s", out)
	}
	most := 25 << 10
	if raceEnabled {
		most *= 4
	}
	if kib > most {
		t.Errorf("it has grown by %d KiB, want less than %d", kib, most)
	}
	t.Logf("it has grown by %d KiB", kib)
}
