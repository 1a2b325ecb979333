package compat;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a Java application does with Kafka, one job for each call: Jobs JOB BOOTSTRAP ARGUMENTS... Each prints a line of counts, or fails.
 */
public final class Jobs {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[1];
        switch (args[0]) {
            case "produce" -> produce(bootstrap, args[2], Integer.parseInt(args[3]), args[4]);
            case "transact" -> transact(bootstrap, args[2], Integer.parseInt(args[3]), args[4]);
            case "consume" -> consume(bootstrap, args[2], args[3], args[4], Integer.parseInt(args[5]));
            case "copy" -> copy(bootstrap, args[2], args[3], args[4], args[5], Integer.parseInt(args[6]));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    /** What every client has; JOB_CA, JOB_USER and JOB_PASSWORD say who it is where that has to be proven. */
    private static Properties client(String bootstrap) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        String user = System.getenv("JOB_USER");
        if (user != null) {
            p.put("security.protocol", "SASL_SSL");
            p.put("ssl.truststore.type", "PEM");
            p.put("ssl.truststore.location", System.getenv("JOB_CA"));
            p.put("sasl.mechanism", "SCRAM-SHA-512");
            p.put("sasl.jaas.config", "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"" + user + "\" password=\""
                    + System.getenv("JOB_PASSWORD") + "\";");
        }
        return p;
    }

    private static Properties producer(String bootstrap) {
        Properties p = client(bootstrap);
        p.put("key.serializer", StringSerializer.class.getName());
        p.put("value.serializer", StringSerializer.class.getName());
        return p;
    }

    /** Writes n records with the producer's defaults, which are idempotent. */
    private static void produce(String bootstrap, String topic, int n, String codec) throws Exception {
        Properties p = producer(bootstrap);
        p.put("compression.type", codec);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < n; i++) {
                sent.add(producer.send(new ProducerRecord<>(topic, "k" + i, codec + "-" + i)));
            }
            for (Future<RecordMetadata> f : sent) {
                f.get();
            }
        }
        System.out.println("produced " + n);
    }

    /** Writes n transactions of ten records; every third is aborted. Prints how many records were committed. */
    private static void transact(String bootstrap, String topic, int n, String id) {
        Properties p = producer(bootstrap);
        p.put("transactional.id", id);
        int committed = 0;
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p)) {
            producer.initTransactions();
            for (int i = 0; i < n; i++) {
                boolean commit = i % 3 != 2;
                producer.beginTransaction();
                for (int j = 0; j < 10; j++) {
                    producer.send(new ProducerRecord<>(topic, "k" + j, (commit ? "c-" : "a-") + id + "-" + i + "-" + j));
                }
                producer.flush();
                if (commit) {
                    producer.commitTransaction();
                    committed += 10;
                } else {
                    producer.abortTransaction();
                }
            }
        }
        System.out.println("committed " + committed);
    }

    private static KafkaConsumer<String, String> consumer(String bootstrap, String group, String protocol) {
        Properties p = client(bootstrap);
        p.put("group.id", group);
        if (!protocol.isEmpty() && !protocol.equals("classic")) {
            p.put("group.protocol", protocol);
        }
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("isolation.level", "read_committed");
        p.put("key.deserializer", StringDeserializer.class.getName());
        p.put("value.deserializer", StringDeserializer.class.getName());
        return new KafkaConsumer<>(p);
    }

    /** Reads until n records have come, and one second more; commits. Prints counts of all, of different and of aborted records. */
    private static void consume(String bootstrap, String topic, String group, String protocol, int n) {
        Map<String, Integer> seen = new HashMap<>();
        int total = 0;
        int aborted = 0;
        try (KafkaConsumer<String, String> consumer = consumer(bootstrap, group, protocol)) {
            consumer.subscribe(List.of(topic));
            long end = System.nanoTime() + Duration.ofSeconds(90).toNanos();
            long quiet = Long.MAX_VALUE;
            while (System.nanoTime() < end && System.nanoTime() < quiet) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                for (ConsumerRecord<String, String> r : records) {
                    total++;
                    seen.merge(r.value(), 1, Integer::sum);
                    if (r.value().startsWith("a-")) {
                        aborted++;
                    }
                }
                consumer.commitSync();
                if (total >= n && quiet == Long.MAX_VALUE) {
                    quiet = System.nanoTime() + Duration.ofSeconds(1).toNanos();
                }
            }
        }
        System.out.println("consumed " + total + " different " + seen.size() + " aborted " + aborted);
    }

    /** Copies until n records were copied by it or nothing comes for ten seconds: reads, writes and commits its position in one transaction. */
    private static void copy(String bootstrap, String from, String to, String id, String protocol, int n) {
        Properties p = producer(bootstrap);
        p.put("transactional.id", id);
        p.put("transaction.timeout.ms", "20000");
        int copied = 0;
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p);
                KafkaConsumer<String, String> consumer = consumer(bootstrap, "java-copy-" + protocol, protocol)) {
            producer.initTransactions();
            consumer.subscribe(List.of(from));
            long last = System.nanoTime();
            while (copied < n && System.nanoTime() - last < Duration.ofSeconds(10).toNanos()) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                last = System.nanoTime();
                Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
                producer.beginTransaction();
                try {
                    for (ConsumerRecord<String, String> r : records) {
                        producer.send(new ProducerRecord<>(to, r.key(), r.value()));
                        positions.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
                    }
                    producer.sendOffsetsToTransaction(positions, consumer.groupMetadata());
                    producer.commitTransaction();
                    copied += records.count();
                } catch (ProducerFencedException e) {
                    throw e;
                } catch (KafkaException e) {
                    producer.abortTransaction();
                    // The next poll begins again where the group's position is.
                    Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(consumer.assignment());
                    for (TopicPartition tp : consumer.assignment()) {
                        OffsetAndMetadata at = committed.get(tp);
                        if (at == null) {
                            consumer.seekToBeginning(List.of(tp));
                        } else {
                            consumer.seek(tp, at.offset());
                        }
                    }
                }
            }
        }
        System.out.println("copied " + copied);
    }
}
