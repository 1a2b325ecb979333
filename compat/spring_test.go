package compat

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// springVersions are those of Spring for Apache Kafka: of Spring 6 and of Spring 7.
var springVersions = []string{"3.3.16", "4.1.2"}

// springJobs gives the class path of the jobs with a version of Spring for Apache Kafka, and of the kafka-clients that it asks for.
func springJobs(t *testing.T, version string) string {
	t.Helper()
	path, err := javaProject("spring", "-Dspring.kafka.version="+version)
	if err != nil {
		missing(t, "Spring for Apache Kafka "+version, err)
	}
	return path
}

// Spring for Apache Kafka: a listener in a transaction (KafkaTransactionManager, read_committed) that is rolled back now and then, through a
// killed leader; one that acknowledges by hand and is stopped in the middle; one that throws, whose bad records come again by a seek
// and then go to a topic of their own.
func TestSpring(t *testing.T) {
	t.Parallel()
	for _, version := range springVersions {
		t.Run("spring-kafka "+version, func(t *testing.T) {
			ran(t, "Spring for Apache Kafka", version, "a listener in a transaction (`KafkaTransactionManager`, `read_committed`) that is rolled back now and then, through a kill; manual `acknowledge()` and a container that is stopped in the middle; a listener that throws, with retries by seek and a dead letter topic")
			runSpring(t, springJobs(t, version))
		})
	}
}

func runSpring(t *testing.T, path string) {
	const records, copied = 200, 190
	c := startCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	admin := franzClient(t, c)
	for _, topic := range []string{"in", "out", "plain", "dead"} {
		createTopic(t, admin, topic, 3)
	}
	produceAll(t, ctx, c, "plain", records)
	job := func(name string, n int) func() (string, error) {
		return func() (string, error) {
			return printed(exec.CommandContext(ctx, "java", "-Xmx256m", "-cp", path, "compat.SpringJobs", name, strings.Join(c.KafkaAddrs(), ","), fmt.Sprint(n)))
		}
	}
	mustPrint(t, "committed 190", job("write", 28)) // the last one is committed
	counts(t, ctx, c, "in", copied)
	var killing sync.WaitGroup
	killing.Go(func() {
		underWay(t, ctx, admin, "out", 50)
		kill(t, c, leaderOf(t, ctx, admin, "out", 0))
	})
	if out, err := job("copy", copied)(); err != nil || out != "copied 190 rolled back 19" {
		t.Errorf("copy: %q, %v", out, err)
	}
	killing.Wait()
	counts(t, ctx, c, "out", copied)
	position(t, ctx, admin, "spring-copy", "in")
	mustPrint(t, "read 201 different 200 acknowledged 200", job("acknowledge", records))
	position(t, ctx, admin, "spring-acknowledge", "plain")
	mustPrint(t, "handled 180 tries of bad ones 60 dead letters 20", job("throw", records))
	position(t, ctx, admin, "spring-throw", "plain")
	counts(t, ctx, c, "dead", records/10)
}

// position demands that a group has committed that it has read every record of a topic: what may follow the last one is a marker.
func position(t *testing.T, ctx context.Context, admin *kgo.Client, group, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var last error
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		at, err := kadm.NewClient(admin).FetchOffsets(ctx, group)
		if last = err; err != nil {
			continue
		}
		for partition, end := range endsOf(t, ctx, admin, topic) {
			if o, ok := at.Lookup(topic, partition); !ok || o.At < end-1 {
				last = fmt.Errorf("partition %d: %d of %d", partition, o.At, end)
			}
		}
		if last == nil {
			return
		}
	}
	t.Errorf("group %s is not where %s ends: %v", group, topic, last)
}

var javaProjects sync.Map // directory and arguments to func() (string, error)

// javaProject compiles the sources of a directory with what its pom.xml asks for, once, and gives the class path.
func javaProject(dir string, args ...string) (string, error) {
	build, _ := javaProjects.LoadOrStore(dir+strings.Join(args, " "), sync.OnceValues(func() (string, error) { return buildJava(dir, args) }))
	return build.(func() (string, error))()
}

func buildJava(from string, args []string) (string, error) {
	for _, tool := range []string{"mvn", "javac"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", err
		}
	}
	dir, err := suiteDir("oncelog-java-")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return "", err
	}
	err = again(func() error {
		classpath := exec.Command("mvn", append([]string{"-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile=classpath"}, args...)...)
		classpath.Dir = dir
		return told(classpath)
	})
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(dir, "classpath"))
	if err != nil {
		return "", err
	}
	libraries := strings.TrimSpace(string(text))
	sources, err := filepath.Glob(filepath.Join(dir, "*.java"))
	if err != nil {
		return "", err
	}
	if len(sources) == 0 {
		return libraries, nil
	}
	compile := exec.Command("javac", append([]string{"-parameters", "-d", "classes", "-cp", libraries}, sources...)...)
	compile.Dir = dir
	if err := told(compile); err != nil {
		return "", err
	}
	return filepath.Join(dir, "classes") + ":" + libraries, nil
}
