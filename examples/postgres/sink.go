package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/oncelog/oncelog/record"
)

// schema: positions is what makes it exact. A balance is a sum, so that an order that counts twice shows.
const schema = `
create table if not exists positions (
	topic text, part int, next bigint not null,
	primary key (topic, part)
);
create table if not exists balances (
	account text primary key, amount bigint not null, orders bigint not null
)`

// errTaken says that a position is not where this worker has seen it: somebody else has gone on from there.
var errTaken = errors.New("others have booked from here")

// sink is the database.
type sink struct{ pool *pgxpool.Pool }

func openSink(ctx context.Context, url string) (*sink, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	// A worker that stops in the middle of a transaction holds the position of its partition; the database gives it up.
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "2s"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	// Workers that begin together make the tables one after the other.
	if _, err := pool.Exec(ctx, "begin; select pg_advisory_xact_lock(1); "+schema+"; commit"); err != nil {
		pool.Close()
		return nil, fmt.Errorf("make tables: %w", err)
	}
	return &sink{pool}, nil
}

func (s *sink) close() { s.pool.Close() }

// position is the offset from which a partition is to be read; 0: from its beginning.
func (s *sink) position(ctx context.Context, tp record.TopicPartition) (at record.Offset, err error) {
	if _, err := s.pool.Exec(ctx, "insert into positions values ($1, $2, 0) on conflict do nothing", tp.Topic, tp.Partition); err != nil {
		return 0, err
	}
	err = s.pool.QueryRow(ctx, "select next from positions where topic = $1 and part = $2", tp.Topic, tp.Partition).Scan(&at)
	return at, err
}

// change is what some orders do to an account.
type change struct{ amount, orders int64 }

// add adds an order: the key is its account, the value its amount.
func add(changes map[string]change, order *record.Record) error {
	amount, err := strconv.ParseInt(string(order.Value), 10, 64)
	if err != nil {
		return fmt.Errorf("order at offset %d: %w", order.Offset, err)
	}
	c := changes[string(order.Key)]
	changes[string(order.Key)] = change{c.amount + amount, c.orders + 1}
	return nil
}

// store changes balances and moves a position on, together, and only if the position is still where it was. Any error but errTaken may
// come although it is stored.
func (s *sink) store(ctx context.Context, tp record.TopicPartition, from, next record.Offset, changes map[string]change, booked func()) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing after Commit
	// The position comes first: its row keeps others out of the partition until the end.
	moved, err := tx.Exec(ctx, "update positions set next = $4 where topic = $1 and part = $2 and next = $3", tp.Topic, tp.Partition, from, next)
	if err != nil {
		return err
	}
	if moved.RowsAffected() != 1 {
		return errTaken
	}
	// In order of accounts, so that workers that share some do not wait for each other in a circle.
	accounts := make([]string, 0, len(changes))
	for account := range changes {
		accounts = append(accounts, account)
	}
	slices.Sort(accounts)
	for _, account := range accounts {
		c := changes[account]
		_, err := tx.Exec(ctx, `insert into balances as b values ($1, $2, $3)
			on conflict (account) do update set amount = b.amount + excluded.amount, orders = b.orders + excluded.orders`, account, c.amount, c.orders)
		if err != nil {
			return err
		}
	}
	booked()
	return tx.Commit(ctx)
}
