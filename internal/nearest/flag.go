package nearest

import (
	"fmt"

	"github.com/spf13/pflag"
)

// Flag names, where a flag does not exist, the one that was nearly meant.
func Flag(err *pflag.NotExistError, flags *pflag.FlagSet) error {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := Of(err.GetSpecifiedName(), names); near != "" {
		return fmt.Errorf("%w: did you mean --%s?", err, near)
	}
	return err
}
