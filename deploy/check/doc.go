// Package check holds deploy/ to what Prometheus and Grafana accept: its tests parse every rule and every query with
// Prometheus's own parser, and compare the metrics and labels that they use with docs/metrics.md, which the tests of package api
// compare with what a node really tells.
package check
