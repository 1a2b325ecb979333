package compatpage

// Client is a program, or a library, that was written for Apache Kafka and is run by the suite in compat/.
type Client struct {
	// Name is what the suite calls it.
	Name string
	// Language that its users write in.
	Language string
	// What is run, in a sentence. "Through a kill": a broker that leads is killed in the middle of the job and started again.
	What string
	// Known is what its users should know of it; empty: nothing.
	Known string
}

// Clients are all, in the order of the page.
var Clients = []Client{
	{Name: "franz-go", Language: "Go",
		What: "idempotent producer, every codec, through a kill; transactions of version 2 and, as a client of Kafka 3.9, of version 1, through a kill; groups of both protocols with members that come and go, static members, killed coordinators; exactly-once copies by three processes in groups of both protocols, through a kill; through TLS and SCRAM-SHA-512 with the rights that it needs, and refused without"},
	{Name: "franz-go's own tests", Language: "Go",
		What:  "the whole test program of `pkg/kgo` with a replication of 3 and 20,000 records; the same while connections break at random (`KGO_TEST_CHAOS`); its chain of exactly-once copies (TxnEtl) while one broker after the other is killed",
		Known: "one test is left out, 848RegexBrokerResolves: see below"},
	{Name: "sarama", Language: "Go",
		What: "idempotent producer, every codec, through a kill; transactions; a group that commits by hand"},
	{Name: "kafka-go", Language: "Go",
		What: "writers with every codec, readers in a group", Known: "its writer is not idempotent, so nothing is killed"},
	{Name: "kafka-clients", Language: "Java",
		What:  "idempotent producer, every codec; transactions (`initTransactions` ... `commitTransaction`) through a kill; consumers with `read_committed` and `commitSync` in groups of the classic protocol and, from 4 on, of the consumer protocol; exactly-once copies by two processes, through a kill; through TLS and SCRAM-SHA-512 with the rights that it needs, and refused without",
		Known: "with `group.protocol=consumer` it dies now and then of *Cannot set a new position without a valid current position* when a leader changes: the thread that polls looks whether a position is valid and then moves it, while the background thread begins to validate it. The job is started again then, and copies on exactly once"},
	{Name: "Kafka Streams", Language: "Java",
		What: "a word count with a store and `exactly_once_v2`, whose process is killed and started again, and through a kill; the same, killed and its local state wiped, restored from its compacted changelog"},
	{Name: "Kafka's tools", Language: "Java",
		What: "topics, groups, offsets, transactions, producers, log dirs, features, quorum, API versions, producer-perf-test, console consumer, access rules, SCRAM users, from the published jars"},
	{Name: "Spring for Apache Kafka", Language: "Java",
		What: "a listener in a transaction (`KafkaTransactionManager`, `read_committed`) that is rolled back now and then, through a kill; manual `acknowledge()` and a container that is stopped in the middle; a listener that throws, with retries by seek and a dead letter topic"},
	{Name: "kafkajs", Language: "JavaScript",
		What:  "idempotent producer, every codec, through a kill; transactions through a kill; a group that reads committed records; an exactly-once copy, through a kill; through TLS and SCRAM-SHA-512 with the rights that it needs, and refused without",
		Known: "snappy, lz4 and zstd come from the packages kafkajs-snappy, lz4js and zstd-codec. It does not show its generation when it commits in a transaction (KIP-447), so one process copies. Two things cost records, or certainty, with Kafka too: when a leader changes while `send` writes to several partitions, what has moved to a broker that had answered already is not sent again, so each `send` here is for one partition; and a commit whose answer was lost is not repeated, so another instance takes over and looks at the group's position"},
	{Name: "confluent-kafka", Language: "Python",
		What: "librdkafka: idempotent producer, every codec; transactions through a kill; consumers with `read_committed` in groups of both protocols; exactly-once copies by two processes, through a kill; through TLS and SCRAM-SHA-512 with the rights that it needs, and refused without"},
	{Name: "kcat", Language: "shell",
		What: "librdkafka as Debian has it: idempotent producer, every codec; metadata; offsets; reading to the end"},
}
