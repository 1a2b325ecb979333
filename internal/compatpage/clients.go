package compatpage

// Client is a program, or a library, that was written for Apache Kafka and is run by the suite in compat/.
type Client struct {
	// Name is what the suite calls it.
	Name string
	// Language that its users write in.
	Language string
	// Known is what its users should know of it; empty: nothing.
	Known string
}

// Clients are all, in the order of the page.
var Clients = []Client{
	{Name: "franz-go", Language: "Go"},
	{Name: "franz-go's own tests", Language: "Go",
		Known: "one test is left out, 848RegexBrokerResolves: see below"},
	{Name: "sarama", Language: "Go"},
	{Name: "kafka-go", Language: "Go",
		Known: "it has neither an idempotent writer nor transactions: it sends requests of theirs (`InitProducerID`, `AddPartitionsToTxn`, `EndTxn`), but no batch of it carries a producer id. So nothing is killed: what it repeats may be there twice, with Kafka too"},
	{Name: "kafka-clients", Language: "Java",
		Known: "with `group.protocol=consumer` it dies now and then of *Cannot set a new position without a valid current position* when a leader changes: the thread that polls looks whether a position is valid and then moves it, while the background thread begins to validate it. The job is started again then, and copies on exactly once"},
	{Name: "Kafka Streams", Language: "Java"},
	{Name: "Kafka Connect", Language: "Java",
		Known: "a worker that starts reads its topic of offsets to the end, and waits for a transaction that a killed one has left open there until that times out, with Kafka too: `producer.override.transaction.timeout.ms` of the connector (60 s) says how long"},
	{Name: "Kafka's tools", Language: "Java"},
	{Name: "Spring for Apache Kafka", Language: "Java"},
	{Name: "kafkajs", Language: "JavaScript",
		Known: "snappy, lz4 and zstd come from the packages kafkajs-snappy, lz4js and zstd-codec. It does not show its generation when it commits in a transaction (KIP-447), so one process copies. Two things cost records, or certainty, with Kafka too: when a leader changes while `send` writes to several partitions, what has moved to a broker that had answered already is not sent again, so each `send` here is for one partition; and a commit whose answer was lost is not repeated, so another instance takes over and looks at the group's position"},
	{Name: "confluent-kafka", Language: "Python"},
	{Name: "kcat", Language: "shell"},
}
