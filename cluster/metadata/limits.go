package metadata

// The bounds of the metadata. They are part of what apply decides, so a change of any of them is
// gated by a feature level.
const (
	// MaxBrokers that can be registered.
	MaxBrokers = 1000
	// MaxTopics counts topics being deleted too.
	MaxTopics = 10_000
	// MaxPartitionsPerTopic that one topic can have.
	MaxPartitionsPerTopic = 10_000
	// MaxPartitions of all topics together, those being deleted included.
	MaxPartitions = 50_000
	// MaxTopicNameLength in bytes, as in Kafka.
	MaxTopicNameLength = 249
	// MaxConfigValueLength in bytes.
	MaxConfigValueLength = 1024
	// MaxListeners that one broker can advertise.
	MaxListeners = 16
	// MaxTextLength in bytes of listener names, addresses, racks and versions.
	MaxTextLength = 255
	// MaxReportedReplicas in one command.
	MaxReportedReplicas = 10_000
	// MaxLeaving replicas that one partition waits to be rid of.
	MaxLeaving = 16
	// MaxProducerIDBlock is the largest block of producer ids that is given out at once.
	MaxProducerIDBlock = 1_000_000
	// MaxCommandBytes bounds one encoded command.
	MaxCommandBytes = 4 << 20
	// MaxSnapshotBytes bounds what Restore reads.
	MaxSnapshotBytes = 256 << 20
	// MaxClusterIDLength in bytes.
	MaxClusterIDLength = 64
)

// BaseLevel is the lowest feature level there is; CurrentLevel is the highest that this program can
// apply at.
const (
	BaseLevel    uint16 = 1
	CurrentLevel uint16 = 3
)

// ReplicationFactors are those that a topic can have. An even number would need as many more brokers
// for a majority as it adds, so it is refused rather than accepted and useless.
var ReplicationFactors = [...]int{1, 3, 5}
