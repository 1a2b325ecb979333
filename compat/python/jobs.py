"""What a Python application does with Kafka through confluent-kafka, one job for each call: jobs.py JOB BOOTSTRAP ARGUMENTS...

Each prints a line of counts, or fails.
"""

import os
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition


def client(bootstrap, config):
    """What every client has; JOB_CA, JOB_USER and JOB_PASSWORD say who it is where that has to be proven."""
    config["bootstrap.servers"] = bootstrap
    if "JOB_USER" in os.environ:
        config |= {"security.protocol": "sasl_ssl", "ssl.ca.location": os.environ["JOB_CA"], "sasl.mechanisms": "SCRAM-SHA-512",
                   "sasl.username": os.environ["JOB_USER"], "sasl.password": os.environ["JOB_PASSWORD"]}
    return config


def produce(bootstrap, topic, n, codec):
    """Writes n records, idempotently."""
    failed = []
    producer = Producer(client(bootstrap, {"enable.idempotence": True, "compression.type": codec}))
    for i in range(n):
        producer.produce(topic, key=f"k{i}", value=f"{codec}-{i}", on_delivery=lambda err, _: err and failed.append(err))
        producer.poll(0)
    if producer.flush(60) or failed:
        sys.exit(f"not delivered: {failed[:3]}")
    print("produced", n)


def transact(bootstrap, topic, n, transactional_id):
    """Writes n transactions of ten records; every third is aborted."""
    producer = Producer(client(bootstrap, {"transactional.id": transactional_id}))
    producer.init_transactions(30)
    committed = 0
    for i in range(n):
        commit = i % 3 != 2
        producer.begin_transaction()
        for j in range(10):
            producer.produce(topic, key=f"k{j}", value=f"{'c' if commit else 'a'}-{transactional_id}-{i}-{j}")
        producer.flush(30)
        if commit:
            again(lambda: producer.commit_transaction(30))
            committed += 10
        else:
            again(lambda: producer.abort_transaction(30))
    print("committed", committed)


def again(end):
    """Repeats what may be repeated, as the client's documentation asks."""
    while True:
        try:
            return end()
        except KafkaException as e:
            if not e.args[0].retriable():
                raise


def consumer_of(bootstrap, group, protocol):
    config = client(bootstrap, {"group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False, "isolation.level": "read_committed"})
    if protocol == "consumer":
        config["group.protocol"] = protocol
    return Consumer(config)


def consume(bootstrap, topic, group, protocol, n):
    """Reads until n records have come, and one second more; commits."""
    consumer = consumer_of(bootstrap, group, protocol)
    consumer.subscribe([topic])
    seen, total, aborted, end, quiet = set(), 0, 0, time.monotonic() + 90, None
    while time.monotonic() < end and (quiet is None or time.monotonic() < quiet):
        messages = consumer.consume(500, 0.2)
        for m in messages:
            if m.error():
                raise KafkaException(m.error())
            total += 1
            seen.add(m.value())
            aborted += m.value().startswith(b"a-")
        if messages:
            consumer.commit(asynchronous=False)
        if total >= n and quiet is None:
            quiet = time.monotonic() + 1
    consumer.close()
    print("consumed", total, "different", len(seen), "aborted", aborted)


def copy(bootstrap, source, target, transactional_id, protocol, n):
    """Copies until n records were copied or nothing comes for ten seconds, each batch with its positions in one transaction."""
    producer = Producer(client(bootstrap, {"transactional.id": transactional_id, "transaction.timeout.ms": 20000}))
    producer.init_transactions(30)
    consumer = consumer_of(bootstrap, "python-copy-" + protocol, protocol)
    consumer.subscribe([source])
    copied, last = 0, time.monotonic()
    while copied < n and time.monotonic() - last < 10:
        messages = [m for m in consumer.consume(200, 0.2) if not m.error()]
        if not messages:
            continue
        last = time.monotonic()
        producer.begin_transaction()
        try:
            for m in messages:
                producer.produce(target, key=m.key(), value=m.value())
            producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30)
            again(lambda: producer.commit_transaction(30))
            copied += len(messages)
        except KafkaException as e:
            if not e.args[0].txn_requires_abort():
                raise
            again(lambda: producer.abort_transaction(30))
            for at in consumer.committed(consumer.assignment(), 30):
                consumer.seek(TopicPartition(at.topic, at.partition, at.offset if at.offset >= 0 else 0))
    consumer.close()
    print("copied", copied)


job, arguments = sys.argv[1], sys.argv[2:]
if job == "produce":
    produce(arguments[0], arguments[1], int(arguments[2]), arguments[3])
elif job == "transact":
    transact(arguments[0], arguments[1], int(arguments[2]), arguments[3])
elif job == "consume":
    consume(arguments[0], arguments[1], arguments[2], arguments[3], int(arguments[4]))
elif job == "copy":
    copy(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], int(arguments[5]))
else:
    sys.exit("no job " + job)
