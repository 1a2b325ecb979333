package parity

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// difference is a step at which our brokers say something else than Apache Kafka, and may.
type difference struct {
	scenario, step string
	// says is what they say instead.
	says string
	// why is for docs/parity.md.
	why string
}

// operators is why markers of clients are looked at.
const operators = "A marker that a client sends cannot be of an epoch that nobody has had, neither of the producer nor of the coordinator: it would lock out those who come."

// Why configs are not there.
const (
	tiers         = "There is no tiered storage."
	recompression = "Brokers do not compress again what producers sent."
	throttles     = "What catches up is throttled by the brokers' catch_up.bytes_per_second, not by replica."
	bounded       = "What a client can fill has a bound."
	perGroup      = "The value is the same for all groups; it is set in the brokers' files."
)

var differences = []difference{
	{"batches", "trailing bytes", "INVALID_RECORD", "A batch that is followed by anything is refused; Kafka ignores what is too short to be another batch."},
	{"transactions-v1", "a duplicate, not added", "offset 0",
		"A late retry of a batch that is in the log is answered with its offset. Kafka asks the coordinator first, whose no sounds as if it was not written."},
	{"transactions-v1", "runs on", "offset 3", "Kafka refuses the right next sequence once a lower one has been refused in a second transaction of version 1 (P15); it need not."},
	{"read-committed", "b aborted, committed", "NONE high 4 stable 1 start 0 [0+1] aborted",
		"Aborted transactions are listed that the answer's records can belong to; Kafka lists some that begin after it (L9). Clients do the same with both."},
	{"markers", "abort", " TRANSACTION_COORDINATOR_FENCED", operators},
	{"markers", "abort again", " TRANSACTION_COORDINATOR_FENCED", operators},
	{"markers", "of a producer that nobody knows", " INVALID_PRODUCER_EPOCH", operators},
	{"markers", "a topic that nobody knows", " TRANSACTION_COORDINATOR_FENCED UNKNOWN_TOPIC_OR_PARTITION", operators},
	{"markers", "log", "NONE high 1 stable 0 start 0 aborted", operators},
	{"fetching", "isolation level 2", "NONE high 5 stable 5 start 2 data true", "An isolation level that does not exist means the weaker one; in Kafka it is an unknown error."},
	{"listing-offsets", "open transaction, committed, -3", "NONE offset 3 timestamp 3001",
		"The newest record is that of those which readers of committed data can see; Kafka finds none if the newest of all is in an open transaction."},
	{"configs", "defaults, cleanup.policy", "compact,delete DYNAMIC_TOPIC_CONFIG LIST sensitive false read only false", "Lists are kept sorted."},
	{"configs", "after, cleanup.policy", "compact,delete DYNAMIC_TOPIC_CONFIG LIST sensitive false read only false", "Lists are kept sorted."},
	{"configs", "defaults, segment.bytes", "67108864 DEFAULT_CONFIG INT sensitive false read only false", "Segments are smaller: a replica that is far behind is sent whole ones."},
	{"configs", "an operation nobody knows", "INVALID_REQUEST", "In Kafka it is an unknown error."},
	{"configs", "defaults, remote.storage.enable", "false DEFAULT_CONFIG BOOLEAN sensitive false read only true", tiers + " Nobody can set it."},
	{"configs", "has flush.policy", "STRING", "A config of ours: when a batch counts as written."},
	{"configs", "has producer.id.expiration.ms", "LONG", "Topics may have their own here; in Kafka it is the brokers'."},
	{"configs", "has compression.gzip.level", silent, recompression},
	{"configs", "has compression.lz4.level", silent, recompression},
	{"configs", "has compression.zstd.level", silent, recompression},
	{"configs", "has follower.replication.throttled.replicas", silent, throttles},
	{"configs", "has leader.replication.throttled.replicas", silent, throttles},
	{"configs", "has local.retention.bytes", silent, tiers},
	{"configs", "has local.retention.ms", silent, tiers},
	{"configs", "has remote.log.copy.disable", silent, tiers},
	{"configs", "has remote.log.delete.on.disable", silent, tiers},
	{"configs", "broker, group.consumer.max.size", "1000 STATIC_BROKER_CONFIG INT", bounded},
	{"configs", "broker, group.max.size", "1000 STATIC_BROKER_CONFIG INT", bounded},
	{"configs", "broker, max.connections", "10000 STATIC_BROKER_CONFIG INT", bounded},
	{"configs", "broker, transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000 STATIC_BROKER_CONFIG INT", "Transactions that are open for too long are looked for more often."},
	{"configs", "broker, log.segment.bytes", "67108864 DEFAULT_CONFIG INT", "Segments are smaller: a replica that is far behind is sent whole ones."},
	{"configs", "of a group, consumer.heartbeat.interval.ms", "5000 DEFAULT_CONFIG INT sensitive false read only true", perGroup},
	{"configs", "of a group, consumer.session.timeout.ms", "45000 DEFAULT_CONFIG INT sensitive false read only true", perGroup},
	{"new-groups", "a member of the classic protocol without an id", "INCONSISTENT_GROUP_PROTOCOL",
		"A group with members keeps its protocol; there is no conversion while they are there. An empty one takes that of whoever joins."},
	{"debugging", "unknown id", "TRANSACTIONAL_ID_NOT_FOUND  -1/-1 timeout 0 topics 0 started false", "What does not exist has the id -1, not 0 (F17)."},
	{"debugging", "empty id", "INVALID_REQUEST  -1/-1 timeout 0 topics 0 started false", "What does not exist has the id -1, not 0 (F17)."},
}

// known finds what a target says instead of what Kafka says.
func known(t *testing.T, target, scenario, step string) (says string, ok bool) {
	t.Helper()
	if target == fake {
		says, ok = fakes(t)[scenario+"\t"+step]
		return says, ok
	}
	for _, d := range differences {
		if target == oncelog && d.scenario == scenario && d.step == step {
			return d.says, true
		}
	}
	return "", false
}

// fakeFile is where kfake's differences are kept: scenario, step and what it says, one a line. They are nobody's intention here.
var fakeFile = filepath.Join("testdata", "kfake", "differences.txt")

func fakes(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(fakeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list := make(map[string]string)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if cells := strings.SplitN(lines.Text(), "\t", 3); len(cells) == 3 {
			list[cells[0]+"\t"+cells[1]] = cells[2]
		}
	}
	return list
}

// table is what docs/parity.md shows.
func table() string {
	var b strings.Builder
	b.WriteString("| scenario | step | Apache Kafka 4.3.1 | oncelog | why |\n|---|---|---|---|---|\n")
	for _, d := range differences {
		said := silent
		if list, err := read(d.scenario); err == nil {
			for _, l := range list {
				if l.step == d.step {
					said = l.result
				}
			}
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | `%s` | %s |\n", d.scenario, d.step, strings.TrimSpace(said), strings.TrimSpace(d.says), d.why)
	}
	return b.String()
}

// docs/parity.md shows the table of differences as it is here; PARITY_DOCS=1 writes it.
func TestPageShowsTheDifferences(t *testing.T) {
	const page, begin, end = "../../docs/parity.md", "<!-- differences -->\n", "<!-- end of differences -->\n"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the differences", page)
	}
	want := head + begin + table() + end + tail
	switch {
	case os.Getenv("PARITY_DOCS") != "":
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	case want != string(raw):
		t.Errorf("%s is not that of the table: run the test with PARITY_DOCS=1", page)
	}
	for _, d := range differences {
		if d.why == "" {
			t.Errorf("%s, %s: no reason is given", d.scenario, d.step)
		}
	}
}
