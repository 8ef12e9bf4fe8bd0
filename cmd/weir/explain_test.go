package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExplainAndUsage: the tables that people read of answers.
func TestExplainAndUsage(t *testing.T) {
	const (
		rates = `"requests":{"rate":10,"burst":20,"granted":10,"now":2.5,"available":3,"waiting":1,"admitted_total":9,"rejected_total":2,"would_reject_total":4}`
		bytes = `"bandwidth":{"download":{"rate":5000000,"burst":5000000,"granted":5000000,"now":1234567,"available":0,"waiting":0,"admitted_total":9,"rejected_total":0,"would_reject_total":0}}`
		use   = `{"limit":5,"granted":4,"in_use":5,"idle":0,"waiting":0,"admitted_total":7,"rejected_total":3,"would_reject_total":4,` + rates + `,` + bytes + `}`
	)
	rated := `{"limit":null,"granted":0,"in_use":0,"idle":0,"waiting":0,"admitted_total":0,"rejected_total":3,"would_reject_total":4,` + rates + `}`
	own := `{"limit":null,"granted":0,"in_use":0,"idle":0,"waiting":0,"admitted_total":0,"rejected_total":0,"would_reject_total":4,"bandwidth":{"download":{"rate":5000000,"burst":5000000,"granted":0,"now":0,"available":0,"waiting":0,"admitted_total":1234567,"rejected_total":0,"would_reject_total":4}}}`
	client := `{"scope":"client","name":"10.0.0.7","pattern":"*",` + use[1:len(use)-1] + `,"nodes":{"a":` + use + `}}`
	for _, c := range []struct {
		call, answer string
		args         []string
		want         string
	}{
		{
			"GET /v1/explain?client=10.0.0.7&host=x.org",
			`{"host":"x.org","client":"10.0.0.7","admitted":false,"limits":[` +
				`{"scope":"client","pattern":"*","key":"10.0.0.7","why":"nothing more specific matches","connections":5,"requests":{"rate":"10/s","burst":20},"bandwidth":{"download":"5MB"},"queue":null,"mode":"enforce","source":"api","use":` + use + `,"admitted":false,"reason":"5 of 5 connections in use"},` +
				`{"scope":"connection","pattern":"","key":"","why":"holds for everything","connections":null,"requests":null,"bandwidth":{"upload":"1MB"},"queue":null,"mode":"report","source":"api","use":null,"admitted":true}]}`,
			[]string{"explain", "x.org", "--client", "10.0.0.7"}, `
SCOPE       PATTERN  COUNTED AS  ALLOWS                                                 IN USE                  WHY                            NOW
client      *        10.0.0.7    5 connections, 10/s requests (20 at once), 5MB/s down  5, 2.5/s, 1.2MB/s down  nothing more specific matches  5 of 5 connections in use
connection  -        -           1MB/s up                                               -                       holds for everything           let in: report only
It would not be let in now.
`,
		},
		{
			"GET /v1/explain?user=ann",
			`{"user":"ann","admitted":false,"limits":[` +
				`{"scope":"user","pattern":"ann","key":"ann","why":"it is named","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":3},"mode":"enforce","source":"api","use":` + use + `,"admitted":false,"reason":"5 of 5 connections in use","waits":true},` +
				`{"scope":"connection","pattern":"","key":"","why":"holds for everything","connections":null,"requests":null,"bandwidth":{"upload":"1MB"},"queue":null,"mode":"report","source":"api","use":` + use + `,"admitted":true}]}`,
			[]string{"explain", "--user", "ann"}, `
SCOPE       PATTERN  COUNTED AS  ALLOWS                            IN USE                  WHY                   NOW
user        ann      ann         5 connections, queue of 3 for 2s  5, 2.5/s, 1.2MB/s down  it is named           5 of 5 connections in use
connection  -        -           1MB/s up                          4 times above it        holds for everything  let in: report only
It would not be let in now without waiting.
`,
		},
		{
			"GET /v1/explain?user=eve",
			`{"user":"eve","admitted":false,"limits":[` +
				`{"scope":"user","pattern":"eve","key":"eve","why":"it is named","connections":5,"requests":null,"bandwidth":null,"queue":{"timeout":"2s","size":3},"mode":"enforce","source":"api","use":` + use + `,"admitted":false,"reason":"this node has no live session with the cluster"}]}`,
			[]string{"explain", "--user", "eve"}, `
SCOPE  PATTERN  COUNTED AS  ALLOWS                            IN USE                  WHY          NOW
user   eve      eve         5 connections, queue of 3 for 2s  5, 2.5/s, 1.2MB/s down  it is named  this node has no live session with the cluster
It would not be let in now.
`,
		},
		{
			"GET /v1/explain?host=y.org",
			`{"host":"y.org","admitted":true,"limits":[` +
				`{"scope":"host","pattern":"y.org","key":"y.org","why":"it is named","connections":2,"requests":null,"bandwidth":null,"queue":null,"mode":"enforce","source":"api","use":{"limit":2,"granted":2,"in_use":2,"idle":2,"waiting":0,"admitted_total":7,"rejected_total":3,"would_reject_total":0},"admitted":true}]}`,
			[]string{"explain", "y.org"}, `
SCOPE  PATTERN  COUNTED AS  ALLOWS         IN USE      WHY          NOW
host   y.org    y.org       2 connections  2 (2 idle)  it is named  let in
It would be let in now.
`,
		},
		{"GET /v1/explain?key=tenant%2F42", `{"key":"tenant/42","admitted":true,"limits":[]}`, []string{"explain", "--key", "tenant/42"}, "\nNo limit is in its way.\n"},
		{
			"GET /v1/explain?host=x.org", `{"host":"x.org","admitted":false,"reason":"this node is draining","limits":[]}`,
			[]string{"explain", "x.org"}, "\nIt would not be let in now: this node is draining.\n",
		},
		{"GET /v1/usage/client?sort=in_use", `{"usage":[` + client + `],"next":"5/10.0.0.7"}`, []string{"usage", "client", "--sort", "in_use"}, `
NAME      LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED  WOULD REFUSE  REQUESTS    OF  UPLOAD  OF  DOWNLOAD     OF
10.0.0.7      5       5     0        4        0         7        3             4     2.5/s  10/s       -   -   1.2MB/s  5MB/s
There are more: continue with --after 5/10.0.0.7
`},
		{"GET /v1/usage/client/10.0.0.7", client, []string{"usage", "client", "10.0.0.7"}, `
client 10.0.0.7 (limit of *)
NODE  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED  WOULD REFUSE  REQUESTS    OF  UPLOAD  OF  DOWNLOAD     OF
a         5       5     0        4        0         7        3             4     2.5/s  10/s       -   -   1.2MB/s  5MB/s
all       5       5     0        4        0         7        3             4     2.5/s  10/s       -   -   1.2MB/s  5MB/s
`},
		{"GET /v1/usage/user", `{"usage":[{"scope":"user","name":"ann","pattern":"*",` + rated[1:len(rated)-1] + `,"nodes":{"a":` + rated + `}}]}`, []string{"usage", "user"}, `
NAME  LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED  WOULD REFUSE  REQUESTS    OF  UPLOAD  OF  DOWNLOAD  OF
ann    none       -     -        -        -         -        3             4     2.5/s  10/s       -   -         -   -
`},
		{"GET /v1/usage/connection", `{"usage":[{"scope":"connection","name":"",` + own[1:len(own)-1] + `,"nodes":{"a":` + own + `}}]}`, []string{"usage", "connection"}, `
NAME        LIMIT  IN USE  IDLE  GRANTED  WAITING  ADMITTED  REFUSED  WOULD REFUSE  REQUESTS  OF  UPLOAD  OF      DOWNLOAD     OF
connection   none       -     -        -        -         -        0             4         -   -       -   -  1.2MB in all  5MB/s
`},
		{
			"GET /v1/explain?user=bob",
			`{"user":"bob","admitted":true,"limits":[` +
				`{"scope":"user","pattern":"*","key":"bob","why":"nothing more specific matches","connections":null,"requests":{"rate":"10/s","burst":20},"bandwidth":null,"queue":null,"mode":"enforce","source":"api","use":` + rated + `,"admitted":true}]}`,
			[]string{"explain", "--user", "bob"}, `
SCOPE  PATTERN  COUNTED AS  ALLOWS                      IN USE  WHY                            NOW
user   *        bob         10/s requests (20 at once)  2.5/s   nothing more specific matches  let in
It would be let in now.
`,
		},
	} {
		f := newFakeAPI(t, map[string][]string{c.call: {c.answer}})
		code, stdout, stderr := f.weir(testProcess(), c.args...)
		if diff := cmp.Diff(c.want[1:], stdout); diff != "" || code != 0 {
			t.Errorf("%q: exit %d, %q, %q, asked %q\n%s", c.args, code, stderr, stdout, f.asked, diff)
		}
		f = newFakeAPI(t, map[string][]string{c.call: {c.answer}})
		if code, stdout, _ := f.weir(testProcess(), append(c.args, "--json")...); code != 0 || stdout != c.answer+"\n" && stdout != c.answer {
			t.Errorf("%q --json: exit %d, %q", c.args, code, stdout)
		}
	}
	for _, args := range [][]string{{"explain"}, {"usage", "connections"}, {"usage", "hosts"}, {"usage"}} {
		if code, _, stderr := newFakeAPI(t, nil).weir(testProcess(), args...); code != exitUsage {
			t.Errorf("%q: exit %d, %q", args, code, stderr)
		}
	}
}

func TestRequestRates(t *testing.T) {
	for n, want := range map[float64]string{0: "0/s", 0.1: "0.1/s", 2.5: "2.5/s", 250: "250/s", 0.05: "3/m", 1.0 / 60: "1/m", 1.0 / 3600: "1/h", 90.0 / 3600: "1.5/m", 30.0 / 3600: "30/h"} {
		if got := requestRate(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}
