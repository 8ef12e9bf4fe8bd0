package proxy

import (
	"net/netip"
	"testing"
)

// An IPv6 address that leads to a denied IPv4 address is denied, by any of the mechanisms.
func TestDeniedByDefault(t *testing.T) {
	p := testPolicy()
	for addr, allowed := range map[string]bool{
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false,
		"fd00:ec2::254": false, "fd00:ec2::23": false, "fd20:ce::254": false, "fd00:ec3::254": true, "fd20:ce::253": true,
		"64:ff9b::169.254.169.254": false, "64:ff9b::a9fe:1": false, "64:ff9b::8.8.8.8": true, "64:ff9b::": false,
		"64:ff9b:1::169.254.169.254": false, "64:ff9b:1:a9fe:a9:fe00::": false, "64:ff9b:1:a9fe:a9:fe00:0:1": false,
		"64:ff9b:1:ff:a9:fe:a9fe:0": false, "64:ff9b:1:7a9:fe:a9fe::": false, "64:ff9b:1:0:a9:fea9:fe00:0": false,
		"64:ff9b:1::8.8.8.8": true, "64:ff9b:1:808:8:800::": true, "64:ff9b:2::a9fe:a9fe": true,
		"2002:a9fe:a9fe::1": false, "2002:808:808::1": true, "2002::": false,
		"2001:0:808:808::5601:5601": false, "2001:0:a9fe:a9fe::f7f7:f7f7": true, "2001:db8::a9fe:a9fe": true,
		"::169.254.169.254": false, "::1": true, "::8.8.8.8": true, "0.0.0.0": false, "::": false, "::ffff:0.0.0.0": false, "10.0.0.1": true,
	} {
		if got := p.allowsDestination(netip.MustParseAddr(addr)); got != allowed {
			t.Errorf("%s: allowed %t, want %t", addr, got, allowed)
		}
	}
	p.DenyDestinations = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/8")}
	for addr, allowed := range map[string]bool{"64:ff9b::10.1.2.3": false, "64:ff9b:1::10.1.2.3": false, "64:ff9b:1::8.8.8.8": true, "2002:a01:203::": false} {
		if got := p.allowsDestination(netip.MustParseAddr(addr)); got != allowed {
			t.Errorf("%s: allowed %t, want %t", addr, got, allowed)
		}
	}
	p = Policy{AllowDestinations: []netip.Prefix{netip.MustParsePrefix("8.8.8.8/32")}}
	if p.allowsDestination(netip.MustParseAddr("64:ff9b::8.8.8.8")) {
		t.Error("an address is allowed for what it leads to")
	}
}
