// Package frontdoor is what the broker's front doors, the gRPC API and the Kafka listener, decide alike: which errors there are
// and what each means to a client, how many bytes and connections all clients together may hold, and what a batch must agree
// on with its request.
package frontdoor

import "github.com/oncelog/oncelog/record"

// What one request may hold, by whatever door it comes.
const (
	// MaxPartitions of one fetch, look-up or produce request.
	MaxPartitions = 10_000
	// MaxTopicsNamed of one request for metadata.
	MaxTopicsNamed = 10_000
	// MaxProducers of one description.
	MaxProducers = 10_000
	// MaxTimeoutMS bounds the time that a request may ask the broker to wait for a commit or a leader.
	MaxTimeoutMS = 600_000
	// MaxFetchWaitMS bounds a long poll.
	MaxFetchWaitMS = 60_000
	// MaxFetchBytes bounds the answer of one fetch.
	MaxFetchBytes = 50 << 20
)

// CheckTransactional demands that a request and its batch agree on whether there is a transaction (P31). It gives the reason
// and a message for people; an empty reason: all is well.
func CheckTransactional(id string, b record.Batch) (reason, field, message string) {
	switch transactional := b.Attributes().Transactional(); {
	case transactional && id == "":
		return ReasonTxnUnauthorised, "transactional_id", "the batch has the transactional bit, but the request names no transactional id (P31)"
	case !transactional && id != "":
		return ReasonInvalidRequest, "batch", "the request names a transactional id, but the batch does not have the transactional bit"
	case transactional && b.ProducerID() < 0:
		return ReasonInvalidRequest, "batch", "the batch belongs to a transaction and has no producer id"
	}
	return "", "", ""
}
