// Package clientv1 is what clients may ask of a broker, generated from client.proto, and a codec
// for it that does not copy batches.
package clientv1
