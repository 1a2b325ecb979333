// Command exactly-once books orders in a ledger, each exactly once, whenever it dies: entries and offsets are committed in one
// transaction. The program is only the function.
package main

import (
	"context"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/examples/job"
)

func main() {
	j := job.Start("exactly-once")
	err := j.Client.Transform(j.Context, client.TransformConfig{Group: j.Group}, func(_ context.Context, orders []client.Fetched, out *client.Output) error {
		for i := range orders {
			for order, err := range orders[i].Records() {
				if err != nil {
					return err
				}
				if err := out.Send(j.Entry(order)); err != nil {
					return err
				}
			}
		}
		j.WorstMoment() // some of it is written, none of it is committed
		return nil
	})
	job.Must(err)
	job.Must(j.Client.Close(context.Background()))
}
