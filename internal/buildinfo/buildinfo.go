// Package buildinfo says which build of oncelog this is.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the Makefile with -ldflags "-X". A build without it takes
// the module's version.
var version string

// Info names a build. The JSON names are stable.
type Info struct {
	// Version is the release, such as v0.1.0, or "devel".
	Version string `json:"version"`
	// Commit is the full hash of the commit it was built from, with "-dirty"
	// when files had been changed, or "" when that was not recorded.
	Commit string `json:"commit,omitempty"`
	// Go is the version of the compiler.
	Go string `json:"go"`
	// Platform is operating system and architecture, such as linux/amd64.
	Platform string `json:"platform"`
}

// Get reads what the linker and the Go tool recorded.
func Get() Info {
	info := Info{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if build, ok := debug.ReadBuildInfo(); ok {
		info.read(build)
	}
	if info.Version == "" {
		info.Version = "devel"
	}
	return info
}

func (i *Info) read(build *debug.BuildInfo) {
	if i.Version == "" && build.Main.Version != "(devel)" {
		i.Version = build.Main.Version
	}
	dirty := false
	for _, setting := range build.Settings {
		switch setting.Key {
		case "vcs.revision":
			i.Commit = setting.Value
		case "vcs.modified":
			dirty = setting.Value == "true"
		}
	}
	if i.Commit != "" && dirty {
		i.Commit += "-dirty"
	}
}

// String is one line for a person.
func (i Info) String() string {
	commit := i.Commit
	if commit == "" {
		commit = "unknown commit"
	}
	return fmt.Sprintf("%s (%s, %s, %s)", i.Version, commit, i.Go, i.Platform)
}
