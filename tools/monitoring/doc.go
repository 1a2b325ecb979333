// Package monitoring runs every query of the dashboard and of the alert rules in deploy against the metrics of a live cluster. It is
// a module of its own: what it needs of Prometheus is no part of the brokers.
package monitoring
