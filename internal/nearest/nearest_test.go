package nearest

import "testing"

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"listen", "lsten", 1}, {"ab", "ba", 2}} {
		if got := Distance(test.a, test.b); got != test.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestOf(t *testing.T) {
	names := []string{"orders", "greetings", "a", "flush.ms", "retention.ms", "retention.bytes"}
	for name, want := range map[string]string{
		"greetingz": "greetings", "Greetings": "greetings", "ordesr": "orders", "retentionms": "retention.ms", "retention.byte": "retention.bytes",
		"foo": "", "b": "", "": "", "payments": "", "greet": "greetings", "bar": "",
	} {
		if got := Of(name, names); got != want {
			t.Errorf("Of(%q) = %q, want %q", name, got, want)
		}
	}
}
