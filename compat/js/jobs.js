// What a JavaScript application does with Kafka through kafkajs, one job for each call: jobs.js JOB BOOTSTRAP ARGUMENTS...
// Each prints a line of counts, or fails.
'use strict'

const fs = require('fs')

const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = require('kafkajs')
const lz4 = require('lz4js')
const { ZstdCodec } = require('zstd-codec')

// kafkajs has gzip; for the others it takes packages, as its documentation shows.
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy')
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
const zstd = new Promise(resolve => ZstdCodec.run(z => resolve(new z.Simple())))
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async buffer => Buffer.from((await zstd).decompress(buffer)),
})
const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }

// JOB_CA, JOB_USER and JOB_PASSWORD say who a client is where that has to be proven.
const security = process.env.JOB_USER && {
  ssl: { ca: [fs.readFileSync(process.env.JOB_CA, 'utf8')] },
  sasl: { mechanism: 'scram-sha-512', username: process.env.JOB_USER, password: process.env.JOB_PASSWORD },
}
const kafkaAt = bootstrap => new Kafka({
  brokers: bootstrap.split(','), clientId: 'kafkajs-job', logLevel: logLevel.ERROR, retry: { retries: 30, initialRetryTime: 100, maxRetryTime: 1000 },
  ...security,
})

/**
 * Writes n records, idempotently, those of each call to one partition: kafkajs remembers which brokers have answered, and does not send what
 * has moved meanwhile from one that has not to one that has.
 */
async function produce(bootstrap, topic, n, codec) {
  const producer = kafkaAt(bootstrap).producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (let at = 0; at < n; at += 50) {
    const messages = []
    for (let i = at; i < Math.min(n, at + 50); i++) messages.push({ partition: (at / 50) % 3, key: `k${i}`, value: `${codec}-${i}` })
    await producer.send({ topic, compression: codecs[codec], messages })
  }
  await producer.disconnect()
  console.log('produced', n)
}

/** A producer that continues a transactional id: what was open under it is ended. */
async function instanceOf(kafka, transactionalId) {
  const producer = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1, transactionTimeout: 20000 })
  await producer.connect()
  return producer
}

/**
 * Writes n transactions of ten records; every third is aborted. kafkajs does not repeat a commit whose answer is lost: nobody knows then what
 * became of it, and another instance goes on.
 */
async function transact(bootstrap, topic, n, transactionalId) {
  const kafka = kafkaAt(bootstrap)
  let producer = await instanceOf(kafka, transactionalId)
  let committed = 0, uncertain = 0
  for (let i = 0; i < n; i++) {
    const commit = i % 3 !== 2
    let ending = false
    try {
      const transaction = await producer.transaction()
      for (let j = 0; j < 10; j++) {
        await transaction.send({ topic, messages: [{ key: `k${j}`, value: `${commit ? 'c' : 'a'}-${transactionalId}-${i}-${j}` }] })
      }
      ending = true
      if (commit) {
        await transaction.commit()
        committed += 10
      } else {
        await transaction.abort()
      }
    } catch (e) {
      if (security) throw e // nothing is killed there: it was refused
      if (commit && ending) uncertain += 10
      await producer.disconnect().catch(() => {})
      producer = await instanceOf(kafka, transactionalId)
    }
  }
  await producer.disconnect()
  console.log('committed', committed, 'uncertain', uncertain)
}

const consumerOf = (kafka, groupId) => kafka.consumer({ groupId, sessionTimeout: 10000, rebalanceTimeout: 20000, heartbeatInterval: 1000, readUncommitted: false })

/** Reads until n records have come, and one second more; commits. */
async function consume(bootstrap, topic, group, n) {
  const consumer = consumerOf(kafkaAt(bootstrap), group)
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const seen = new Set()
  let total = 0, aborted = 0
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${total} of ${n} records came`)), 90000).unref()
    consumer.on(consumer.events.CRASH, e => e.payload.restart || reject(e.payload.error))
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ topic, partition, message }) => {
        total++
        const value = message.value.toString()
        seen.add(value)
        if (value.startsWith('a-')) aborted++
        await consumer.commitOffsets([{ topic, partition, offset: (BigInt(message.offset) + 1n).toString() }])
        if (total === n) setTimeout(resolve, 1000)
      },
    }).catch(reject)
  })
  await consumer.disconnect()
  console.log('consumed', total, 'different', seen.size, 'aborted', aborted)
}

/**
 * Copies until n records were copied, each batch with its position in one transaction, from each partition to the one of the same number.
 * One instance: kafkajs does not show its generation (KIP-447), so that a transactional id has to stand for the partitions.
 */
async function copy(bootstrap, from, to, transactionalId, n) {
  const groupId = 'kafkajs-copy'
  const kafka = kafkaAt(bootstrap)
  let producer = await instanceOf(kafka, transactionalId)
  const admin = kafka.admin()
  await admin.connect()
  const consumer = consumerOf(kafka, groupId)
  await consumer.connect()
  await consumer.subscribe({ topics: [from], fromBeginning: true })
  const positions = new Map()
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`copied up to ${JSON.stringify([...positions])} of ${n} records`)), 150000).unref()
    consumer.on(consumer.events.CRASH, e => e.payload.restart || reject(e.payload.error))
    consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
        for (let at = 0; at < batch.messages.length && isRunning() && !isStale(); at += 50) {
          const part = batch.messages.slice(at, at + 50)
          const last = part[part.length - 1].offset
          let next = (BigInt(last) + 1n).toString()
          try {
            const transaction = await producer.transaction()
            await transaction.send({ topic: to, messages: part.map(m => ({ partition: batch.partition, key: m.key, value: m.value })) })
            await transaction.sendOffsets({ consumerGroupId: groupId, topics: [{ topic: from, partitions: [{ partition: batch.partition, offset: next }] }] })
            await transaction.commit()
            resolveOffset(last)
          } catch (e) {
            // Whatever became of it: another instance ends it, and then the group's position says what was committed.
            await producer.disconnect().catch(() => {})
            producer = await instanceOf(kafka, transactionalId)
            const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [from] })
            const committed = partitions.find(p => p.partition === batch.partition).offset
            next = committed === '-1' ? '0' : committed
            consumer.seek({ topic: from, partition: batch.partition, offset: next })
          }
          positions.set(batch.partition, Number(next))
          if ([...positions.values()].reduce((a, b) => a + b, 0) === n) resolve()
          await heartbeat()
        }
      },
    }).catch(reject)
  })
  await consumer.disconnect()
  await admin.disconnect()
  await producer.disconnect()
  console.log('copied', n)
}

const [job, bootstrap, ...args] = process.argv.slice(2)
const jobs = {
  produce: () => produce(bootstrap, args[0], Number(args[1]), args[2]),
  transact: () => transact(bootstrap, args[0], Number(args[1]), args[2]),
  consume: () => consume(bootstrap, args[0], args[1], Number(args[2])),
  copy: () => copy(bootstrap, args[0], args[1], args[2], Number(args[3])),
}
if (!jobs[job]) {
  console.error('no job', job)
  process.exit(2)
}
jobs[job]().then(() => process.exit(0), e => {
  console.error(e)
  process.exit(1)
})
