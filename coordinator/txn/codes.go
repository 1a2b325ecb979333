package txn

import "fmt"

// Code is what the machine says to a command.
type Code uint8

// The codes.
const (
	// OK: done, or found done.
	OK Code = iota
	// Stale: the id has moved on since the command was computed. Compute it again.
	Stale
	// NeedsProducerID: the command has to carry a fresh producer id. Check says it, so that ids are not wasted.
	NeedsProducerID
	// InvalidProducerIDMapping: the id is not known, or belongs to another producer id (T5, T17, T31).
	InvalidProducerIDMapping
	// ProducerFenced: a newer producer owns the id (I6, I10, T5, T17).
	ProducerFenced
	// ConcurrentTransactions: markers are on their way; ask again soon (T1).
	ConcurrentTransactions
	// InvalidTxnState: what is asked makes no sense where the id is now (T17, T19).
	InvalidTxnState
	// TransactionAbortable: the transaction cannot go on and has to be aborted (T8, and where a bound is reached).
	TransactionAbortable
	// TooManyIDs: the shard remembers as many ids as it may.
	TooManyIDs
	// NotFound: an operator asked about an id that is not known (T35).
	NotFound
)

var codeNames = [...]string{
	"NONE", "STALE", "NEEDS_PRODUCER_ID", "INVALID_PRODUCER_ID_MAPPING", "PRODUCER_FENCED", "CONCURRENT_TRANSACTIONS",
	"INVALID_TXN_STATE", "TRANSACTION_ABORTABLE", "TOO_MANY_TRANSACTIONAL_IDS", "TRANSACTIONAL_ID_NOT_FOUND",
}

// String is the name of Kafka's error where there is one.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("CODE_%d", uint8(c))
}
