package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/weirproxy/weir/limit"
)

// FormatLimits writes limits as a limits block, from which [LoadLimits] reads the same.
func FormatLimits(limits []limit.Limit) string {
	var b strings.Builder
	b.WriteString("limits {\n")
	for i := range limits {
		if i > 0 {
			b.WriteByte('\n')
		}
		formatLimit(&b, &limits[i])
	}
	b.WriteString("}\n")
	return string(hclwrite.Format([]byte(b.String())))
}

func formatLimit(b *strings.Builder, l *limit.Limit) {
	scope := l.Pattern.Scope()
	b.WriteString(scope.String())
	if !scope.Bare() {
		b.WriteString(" " + quote(l.Pattern.String()))
	}
	b.WriteString(" {\n")
	if l.Capped() {
		fmt.Fprintf(b, "connections = %d\n", l.Connections)
	}
	if l.Shared {
		b.WriteString("shared = true\n")
	}
	if l.Report {
		fmt.Fprintf(b, "mode = %q\n", modeReport)
	}
	formatRates(b, l)
	if q := l.Queue; q != (limit.Queue{}) {
		fmt.Fprintf(b, "queue {\ntimeout = %q\nsize = %d\n}\n", FormatDuration(q.Timeout), q.Size)
	}
	b.WriteString("}\n")
}

func formatRates(b *strings.Builder, l *limit.Limit) {
	if r := l.Requests; r != (limit.Rate{}) {
		fmt.Fprintf(b, "requests {\nrate = %q\n", r)
		if def, err := limit.ParseRate(r.String(), 0); err != nil || def.Burst != r.Burst {
			fmt.Fprintf(b, "burst = %d\n", r.Burst)
		}
		b.WriteString("}\n")
	}
	if l.Bandwidth == (limit.Bandwidth{}) {
		return
	}
	b.WriteString("bandwidth {\n")
	for _, a := range []struct {
		name  string
		bytes int64
	}{{"upload", l.Bandwidth.Upload}, {"download", l.Bandwidth.Download}, {"burst", l.Bandwidth.Burst}} {
		if a.bytes != 0 {
			fmt.Fprintf(b, "%s = %q\n", a.name, limit.FormatBytes(a.bytes))
		}
	}
	b.WriteString("}\n")
}

// quote writes a string as HCL reads it, without taking any of it for a template.
func quote(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString("\\" + string(r))
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return `"` + strings.NewReplacer("${", "$${", "%{", "%%{").Replace(b.String()) + `"`
}
