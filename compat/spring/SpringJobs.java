package compat;

import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.ContainerProperties.AckMode;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.support.Acknowledgment;
import org.springframework.kafka.transaction.KafkaTransactionManager;
import org.springframework.util.backoff.FixedBackOff;

/**
 * What an application of Spring for Apache Kafka does, one job for each call: SpringJobs JOB BOOTSTRAP RECORDS. Each prints a line of
 * counts, or fails.
 */
public final class SpringJobs {
    private static String bootstrap;

    public static void main(String[] args) throws Exception {
        bootstrap = args[1];
        int n = Integer.parseInt(args[2]);
        switch (args[0]) {
            case "write" -> write(n);
            case "copy" -> run(Copy.class, () -> Copy.done(n), () -> "copied " + n + " rolled back " + Copy.thrown);
            case "acknowledge" -> run(Acknowledge.class, () -> Acknowledge.stopped, () -> "read " + Acknowledge.read + " different " + Acknowledge.seen.size()
                    + " acknowledged " + Acknowledge.acknowledged);
            case "throw" -> run(Throw.class, () -> Throw.seen.size() == n && Throw.dead.get() == n / 10, () -> "handled " + Throw.handled + " tries of bad ones "
                    + Throw.tries + " dead letters " + Throw.dead);
            default -> throw new IllegalArgumentException(args[0]);
        }
        System.exit(0);
    }

    /** Runs an application until it is done, and two seconds more, in which what comes again would come. */
    private static void run(Class<?> application, BooleanSupplier done, java.util.function.Supplier<String> said) throws Exception {
        try (AnnotationConfigApplicationContext context = new AnnotationConfigApplicationContext(application)) {
            for (long end = System.nanoTime() + Duration.ofSeconds(120).toNanos(); !done.getAsBoolean(); Thread.sleep(50)) {
                if (System.nanoTime() > end) {
                    System.err.println("not done in time: " + said.get());
                    System.exit(1);
                }
            }
            Thread.sleep(2000);
        }
        System.out.println(said.get());
    }

    private static DefaultKafkaProducerFactory<String, String> producers(String transactions) {
        Map<String, Object> p = new HashMap<>();
        p.put("bootstrap.servers", bootstrap);
        p.put("key.serializer", StringSerializer.class);
        p.put("value.serializer", StringSerializer.class);
        if (transactions != null) {
            p.put("transaction.timeout.ms", 20000);
        }
        DefaultKafkaProducerFactory<String, String> f = new DefaultKafkaProducerFactory<>(p);
        if (transactions != null) {
            f.setTransactionIdPrefix(transactions);
        }
        return f;
    }

    private static ConcurrentKafkaListenerContainerFactory<String, String> listeners(int concurrency) {
        Map<String, Object> p = new HashMap<>();
        p.put("bootstrap.servers", bootstrap);
        p.put("key.deserializer", StringDeserializer.class);
        p.put("value.deserializer", StringDeserializer.class);
        p.put("auto.offset.reset", "earliest");
        p.put("isolation.level", "read_committed");
        ConcurrentKafkaListenerContainerFactory<String, String> f = new ConcurrentKafkaListenerContainerFactory<>();
        f.setConsumerFactory(new DefaultKafkaConsumerFactory<>(p));
        f.setConcurrency(concurrency);
        return f;
    }

    /** Writes n transactions of ten records to the topic in; every third is aborted. */
    private static void write(int n) {
        DefaultKafkaProducerFactory<String, String> f = producers("spring-write-");
        KafkaTemplate<String, String> template = new KafkaTemplate<>(f);
        int committed = 0;
        for (int i = 0; i < n; i++) {
            boolean commit = i % 3 != 2;
            String value = (commit ? "c-" : "a-") + i + "-";
            try {
                template.executeInTransaction(t -> {
                    for (int j = 0; j < 10; j++) {
                        t.send("in", "k" + j, value + j);
                    }
                    t.flush();
                    if (!commit) {
                        throw new IllegalStateException("aborted");
                    }
                    return true;
                });
                committed += 10;
            } catch (IllegalStateException e) {
                if (commit) {
                    throw e;
                }
            }
        }
        f.destroy();
        System.out.println("committed " + committed);
    }

    /**
     * A listener in a transaction: what it sends and the position of what it read are committed together. It throws now and then, after it has
     * sent: then it is rolled back, and the record comes again.
     */
    @Configuration
    @EnableKafka
    public static class Copy {
        static final Set<String> seen = ConcurrentHashMap.newKeySet();
        static final Set<String> failed = ConcurrentHashMap.newKeySet();
        static final AtomicInteger thrown = new AtomicInteger();

        static boolean done(int n) {
            return seen.size() >= n;
        }

        @Bean
        DefaultKafkaProducerFactory<String, String> producerFactory() {
            return producers("spring-copy-");
        }

        @Bean
        KafkaTemplate<String, String> template(DefaultKafkaProducerFactory<String, String> f) {
            return new KafkaTemplate<>(f);
        }

        @Bean
        KafkaTransactionManager<String, String> transactionManager(DefaultKafkaProducerFactory<String, String> f) {
            return new KafkaTransactionManager<>(f);
        }

        @Bean
        ConcurrentKafkaListenerContainerFactory<String, String> kafkaListenerContainerFactory(KafkaTransactionManager<String, String> m) {
            ConcurrentKafkaListenerContainerFactory<String, String> f = listeners(2);
            f.getContainerProperties().setKafkaAwareTransactionManager(m);
            return f;
        }

        @Bean
        Listener listener(KafkaTemplate<String, String> template) {
            return new Listener(template);
        }

        public static class Listener {
            private final KafkaTemplate<String, String> template;

            Listener(KafkaTemplate<String, String> template) {
                this.template = template;
            }

            @KafkaListener(topics = "in", groupId = "spring-copy")
            public void copy(ConsumerRecord<String, String> r) {
                template.send("out", r.key(), r.value());
                if (r.value().endsWith("-7") && failed.add(r.value())) {
                    thrown.incrementAndGet();
                    throw new IllegalStateException("once");
                }
                seen.add(r.value());
            }
        }
    }

    /** A listener that says of each record when it is done with it. It is stopped after half of them, without a word on the last, and started again. */
    @Configuration
    @EnableKafka
    public static class Acknowledge {
        static final Set<String> seen = ConcurrentHashMap.newKeySet();
        static final AtomicInteger read = new AtomicInteger();
        static final AtomicInteger acknowledged = new AtomicInteger();
        static volatile boolean stopped;

        @Bean
        ConcurrentKafkaListenerContainerFactory<String, String> kafkaListenerContainerFactory() {
            ConcurrentKafkaListenerContainerFactory<String, String> f = listeners(1);
            f.getContainerProperties().setAckMode(AckMode.MANUAL_IMMEDIATE);
            f.getContainerProperties().setStopImmediate(true);
            return f;
        }

        @Bean
        Listener listener(org.springframework.kafka.config.KafkaListenerEndpointRegistry registry) {
            return new Listener(registry);
        }

        public static class Listener {
            private final org.springframework.kafka.config.KafkaListenerEndpointRegistry registry;

            Listener(org.springframework.kafka.config.KafkaListenerEndpointRegistry registry) {
                this.registry = registry;
            }

            @KafkaListener(id = "acknowledging", topics = "plain", groupId = "spring-acknowledge")
            public void take(ConsumerRecord<String, String> r, Acknowledgment a) {
                boolean again = !seen.add(r.value());
                int n = read.incrementAndGet();
                if (n == HALF && !again) {
                    new Thread(this::restart).start();
                    awaitStop();
                    return; // it is read again
                }
                a.acknowledge();
                if (acknowledged.incrementAndGet() == 2 * HALF) {
                    stopped = true;
                }
            }

            private final CountDownLatch stopping = new CountDownLatch(1);

            private void awaitStop() {
                try {
                    stopping.await(10, TimeUnit.SECONDS);
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
            }

            private void restart() {
                var container = registry.getListenerContainer("acknowledging");
                CountDownLatch over = new CountDownLatch(1);
                container.stop(over::countDown);
                stopping.countDown();
                try {
                    over.await();
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();
                }
                container.start();
            }
        }

        /** HALF is half of the records that the job is given. */
        static final int HALF = 100;
    }

    /** A listener that throws for one record in ten: it is given again, twice, and then goes to a topic of its own. */
    @Configuration
    @EnableKafka
    public static class Throw {
        static final Set<String> seen = ConcurrentHashMap.newKeySet();
        static final AtomicInteger handled = new AtomicInteger();
        static final AtomicInteger tries = new AtomicInteger();
        static final AtomicInteger dead = new AtomicInteger();

        @Bean
        ConcurrentKafkaListenerContainerFactory<String, String> kafkaListenerContainerFactory() {
            KafkaTemplate<String, String> template = new KafkaTemplate<>(producers(null));
            ConcurrentKafkaListenerContainerFactory<String, String> f = listeners(1);
            DeadLetterPublishingRecoverer dead = new DeadLetterPublishingRecoverer(template, (r, e) -> new TopicPartition("dead", r.partition()));
            f.setCommonErrorHandler(new DefaultErrorHandler((r, e) -> {
                dead.accept(r, e);
                Throw.dead.incrementAndGet();
            }, new FixedBackOff(20, 2)));
            return f;
        }

        @KafkaListener(topics = "plain", groupId = "spring-throw")
        public void take(ConsumerRecord<String, String> r) {
            seen.add(r.value());
            if (r.value().endsWith("3")) {
                tries.incrementAndGet();
                throw new IllegalStateException("bad");
            }
            handled.incrementAndGet();
        }
    }
}
