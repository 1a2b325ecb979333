// Command at-least-once books orders in a ledger, each at least once: it does the work, waits until it is on the disks of a majority, and then commits that
// it has read them. If it dies in between they are booked again. That is right where doing it twice does no harm.
package main

import (
	"context"

	"github.com/oncelog/oncelog/client"
	"github.com/oncelog/oncelog/examples/job"
)

func main() {
	j := job.Start("at-least-once")
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
		for i := range orders {
			job.Must(orders[i].Err)
			for order, err := range orders[i].Records() {
				job.Must(err)
				job.Must(producer.Send(j.Context, j.Entry(order), func(r client.Result) { job.Must(r.Err) }))
			}
		}
		job.Must(producer.Flush(j.Context)) // every entry is written now
		j.WorstMoment()                     // booked, and not committed
		job.Must(group.Commit(j.Context))
	}
	job.Must(j.Client.Close(context.Background()))
}
