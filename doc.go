// Package oncelog is the root of a replicated message log with Kafka's
// exactly-once producer semantics. It holds no code: this comment tells where
// everything is.
//
// A cluster of brokers keeps topics of records, in partitions. Each partition
// is one Raft group; its state machine applies record batches and keeps
// producer state, so that a batch which is sent again is known again, whichever
// broker leads by then. A metadata Raft group agrees on brokers, topics and
// placement.
//
// Four words have one meaning each. Propose: hand to Raft. Commit: a majority
// has it on disk. Apply: the state machine has taken it. Acknowledge: the client
// has been told. An offset counts records in a partition, an index counts Raft
// entries; they are different types (package record).
//
// # The walks
//
// Each request goes down once and comes back once.
//
// Produce: api decodes a batch and checks it (record.Validate); partition finds
// the replica and proposes; internal/raftgroup hands it to Raft, which writes it
// to partition/recordlog here and on the followers; once committed, partition
// applies it: partition/producer says whether it is new, a duplicate, out of
// order or fenced, and only a new batch gets offsets. The answer returns through
// the proposal.
//
// Fetch: api calls partition, which reads stored batches from
// partition/recordlog up to the high watermark. Nothing is decoded on the way:
// stored bytes are sent bytes.
//
// Metadata: api calls cluster, which proposes to the metadata group, on another
// broker if that one leads; cluster/metadata applies it and publishes a new
// image; broker then tells partition which groups to open or close. Who leads
// what is soft state that the brokers tell each other.
//
// # Where to read next
//
// docs/architecture.md for whoever wants to change something, docs/guarantees.md
// for what is promised and which test holds it, docs/formats for what is on disk
// and on the wire. arch_test.go holds the rules of who may import whom.
package oncelog
