// Package compat runs programs that were written for Apache Kafka against three real brokerd processes. It is a module of its own, so
// that what they need is no part of the product.
package compat
