// Package parity asks Apache Kafka, our brokers and franz-go's kfake the same questions, in raw requests, and compares what they answer.
//
// A scenario is a function that talks to a cluster and notes what it hears, one line for each step. What Apache Kafka said is kept in
// testdata, one file for each scenario; another target has to say the same, line by line, save where the table of differences
// (differences_test.go) says what it says instead, and why. docs/parity.md shows that table.
//
//	go test ./parity                          our brokers against what is kept
//	PARITY_TARGET=kfake go test ./parity      kfake
//	PARITY_TARGET=kafka go test ./parity      Apache Kafka itself: is what is kept still true?
//	PARITY_TARGET=kafka PARITY_RECORD=1 ...   keeps what it says
package parity
