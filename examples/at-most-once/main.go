// Command at-most-once books orders in a ledger, each at most once: it commits that it has read them, and then does the work. If it dies
// in between they are lost. That is right for what is worth nothing later, such as samples of a gauge.
package main

import (
	"context"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/examples/job"
)

func main() {
	j := job.Start("at-most-once")
	group, err := j.Client.NewGroupConsumer(j.Group)
	job.Must(err)
	producer, err := j.Client.NewProducer(client.ProducerConfig{})
	job.Must(err)
	for {
		orders, err := group.Poll(j.Context)
		if j.Stopped(err) {
			break
		}
		job.Must(err)
		job.Must(group.Commit(j.Context)) // first: nobody reads them again
		for i := range orders {
			job.Must(orders[i].Err)
			for order, err := range orders[i].Records() {
				job.Must(err)
				entry := j.Entry(order)
				j.WorstMoment() // committed, and not booked
				job.Must(producer.Send(j.Context, entry, nil))
			}
		}
	}
	job.Must(j.Client.Close(context.Background()))
}
