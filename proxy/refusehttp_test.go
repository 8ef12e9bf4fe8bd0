package proxy

import "testing"

// Each reason has an error token, and a status unless the policy gives it one.
func TestEachReasonHasAnHTTPForm(t *testing.T) {
	for why := range reasonCount {
		r := refusal{reason: why}
		if r.code() == "" || r.status(0) == 0 && !why.limited() {
			t.Errorf("reason %d is rendered as %d %q", why, r.status(0), r.code())
		}
		if why.limited() != (r.code() == codeLimit) || why.limited() && r.status(429) != 429 {
			t.Errorf("reason %d: limited %v, but %d %q", why, why.limited(), r.status(429), r.code())
		}
	}
}
