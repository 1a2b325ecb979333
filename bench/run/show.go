package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func show(results []result, format string) error {
	if format == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	width := len("what")
	for _, r := range results {
		width = max(width, len(r.What))
	}
	fmt.Printf("%-*s %-5s %8s %8s %6s %-11s %7s  %s\n", width, "what", "unit", "oncelog", "limit", "ratio", "(range)", "CPU/GiB", "goal")
	for _, r := range results {
		limit, ratio, spread, cpu := "-", "-", "", "-"
		if r.Limit > 0 {
			limit, ratio = fmt.Sprintf("%.1f", r.Limit), fmt.Sprintf("%.2f", r.Ratio)
			spread = fmt.Sprintf("%.2f-%.2f", r.Least, r.Most)
		}
		if r.CPU > 0 {
			cpu = fmt.Sprintf("%.1f s", r.CPU)
		}
		fmt.Printf("%-*s %-5s %8.1f %8s %6s %-11s %7s  %s\n", width, r.What, r.Unit, r.Ours, limit, ratio, spread, cpu, r.Goal)
	}
	return nil
}
