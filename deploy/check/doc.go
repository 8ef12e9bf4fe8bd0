// Package check holds deploy/ and the Dockerfile to what those accept who read them: Prometheus and
// Grafana, Kubernetes, systemd, BuildKit and Compose. Its tests use their own parsers and schemas,
// and compare what the files say with each other.
//
// The metrics and labels that rules and queries use are compared with docs/metrics.md, which the
// tests of package api/server compare with what a node really tells. That the configs are valid,
// and work, the end-to-end tests show.
package check
