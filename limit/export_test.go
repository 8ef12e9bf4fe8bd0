package limit

// What the tests from outside read of those from inside.
var (
	Spellings    = spellings
	RefusedHosts = refusedHosts
)
