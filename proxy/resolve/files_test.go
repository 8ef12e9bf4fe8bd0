package resolve

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseHosts(t *testing.T) {
	h := parseHosts([]byte("# none of this: 10.0.0.9 x\n127.0.0.1 localhost Api.Example.com. # the end\n" +
		"::1 localhost\n10.0.0.1\tapi api\n\n10.0.0.1 api\nnonsense name\n10.0.0.2\n::ffff:10.0.0.3 mapped\r\n10.0.0.4 last ."))
	for name, want := range map[string]string{
		"localhost": "[127.0.0.1 ::1]", "api.example.com": "[127.0.0.1]", "api": "[10.0.0.1]", "mapped": "[10.0.0.3]",
		"last": "[10.0.0.4]", "x": "[]", "name": "[]", "": "[]",
	} {
		if got := fmt.Sprint(h[name]); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost # x\n::1 a b. C\r\n10.0.0.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, list := range parseHosts(b) {
			if name == "" || len(list) == 0 || len(list) > 2*maxAddrs || strings.ToLower(name) != name {
				t.Fatalf("%q: %v", name, list)
			}
		}
	})
}

func TestParseResolvConf(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[127.0.0.1 ::1] 5s 2 false false false"},
		{"nameserver 10.0.0.1\nnameserver fe80::1%eth0\n", "[10.0.0.1 fe80::1%eth0] 5s 2 false false false"},
		{"nameserver 1.1.1.1\nnameserver x\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4", "[1.1.1.1 1.1.1.2 1.1.1.3] 5s 2 false false false"},
		{"search example.com\noptions ndots:5 timeout:1 attempts:3 rotate use-vc edns0", "[127.0.0.1 ::1] 1s 3 true true false"},
		{"options timeout:0 attempts:99 no-aaaa", "[127.0.0.1 ::1] 1s 5 false false true"},
		{"options timeout:9999999999 attempts:-1", "[127.0.0.1 ::1] 30s 1 false false false"},
		{"options timeout: attempts:x timeout", "[127.0.0.1 ::1] 5s 2 false false false"},
		{"; nameserver 10.0.0.1\n# nameserver 10.0.0.2\nnameserver\nnameserver 10.0.0.3 # the third", "[10.0.0.3] 5s 2 false false false"},
	} {
		p := parseResolvConf([]byte(c.text))
		if got := fmt.Sprint(p.nameservers, p.timeout, p.attempts, p.rotate, p.useTCP, p.noAAAA); got != c.want {
			t.Errorf("%q is %s, want %s", c.text, got, c.want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\noptions timeout:3 attempts:2 rotate\n# x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseResolvConf(b)
		if n := len(c.nameservers); n < 1 || n > maxServers || c.timeout < time.Second || c.timeout > maxTimeout || c.attempts < 1 || c.attempts > maxAttempts {
			t.Fatalf("%q: %+v", b, c)
		}
	})
}
