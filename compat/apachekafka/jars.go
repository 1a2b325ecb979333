package apachekafka

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed pom.xml
var pom []byte

var classpaths sync.Map // version to func() (string, error)

// Classpath fetches the jars of a version, once for each process, and gives the class path of the broker and the tools. An error
// is mostly that Java or Maven is not there.
func Classpath(version string) (string, error) {
	fetch, _ := classpaths.LoadOrStore(version, sync.OnceValues(func() (string, error) { return fetchJars(version) }))
	return fetch.(func() (string, error))()
}

func fetchJars(version string) (string, error) {
	for _, program := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp("", "apachekafka-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("mvn", "-q", "-B", "-Dkafka.version="+version, "dependency:build-classpath", "-Dmdep.outputFile=classpath")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetch the jars of Kafka %s: %w: %s", version, err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "classpath"))
	return strings.TrimSpace(string(text)), err
}
