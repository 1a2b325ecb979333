// What a JavaScript application does with Kafka through kafkajs, one job for each call: jobs.js JOB BOOTSTRAP ARGUMENTS...
// Each prints a line of counts, or fails.
'use strict'

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

const kafkaAt = bootstrap => new Kafka({
  brokers: bootstrap.split(','), clientId: 'kafkajs-job', logLevel: logLevel.ERROR, retry: { retries: 30, initialRetryTime: 100, maxRetryTime: 1000 },
})

/** Writes n records, idempotently. */
async function produce(bootstrap, topic, n, codec) {
  const producer = kafkaAt(bootstrap).producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  for (let at = 0; at < n; at += 100) {
    const messages = []
    for (let i = at; i < Math.min(n, at + 100); i++) messages.push({ key: `k${i}`, value: `${codec}-${i}` })
    await producer.send({ topic, compression: codecs[codec], messages })
  }
  await producer.disconnect()
  console.log('produced', n)
}

/** Writes n transactions of ten records; every third is aborted. */
async function transact(bootstrap, topic, n, transactionalId) {
  const producer = kafkaAt(bootstrap).producer({ transactionalId, idempotent: true, maxInFlightRequests: 1, transactionTimeout: 30000 })
  await producer.connect()
  let committed = 0
  for (let i = 0; i < n; i++) {
    const commit = i % 3 !== 2
    const transaction = await producer.transaction()
    for (let j = 0; j < 10; j++) {
      await transaction.send({ topic, messages: [{ key: `k${j}`, value: `${commit ? 'c' : 'a'}-${transactionalId}-${i}-${j}` }] })
    }
    if (commit) {
      await transaction.commit()
      committed += 10
    } else {
      await transaction.abort()
    }
  }
  await producer.disconnect()
  console.log('committed', committed)
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
 * Copies until n records were copied, each batch with its position in one transaction. One instance: kafkajs does not show its generation
 * (KIP-447), so that a transactional id has to stand for the partitions.
 */
async function copy(bootstrap, from, to, transactionalId, n) {
  const kafka = kafkaAt(bootstrap)
  const producer = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1, transactionTimeout: 20000 })
  await producer.connect()
  const consumer = consumerOf(kafka, 'kafkajs-copy')
  await consumer.connect()
  await consumer.subscribe({ topics: [from], fromBeginning: true })
  let copied = 0
  await new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`${copied} of ${n} records were copied`)), 120000).unref()
    consumer.on(consumer.events.CRASH, e => e.payload.restart || reject(e.payload.error))
    consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
        for (let at = 0; at < batch.messages.length; at += 50) {
          if (!isRunning() || isStale()) return
          const part = batch.messages.slice(at, at + 50)
          const next = (BigInt(part[part.length - 1].offset) + 1n).toString()
          const transaction = await producer.transaction()
          try {
            await transaction.send({ topic: to, messages: part.map(m => ({ key: m.key, value: m.value })) })
            await transaction.sendOffsets({ consumerGroupId: 'kafkajs-copy', topics: [{ topic: from, partitions: [{ partition: batch.partition, offset: next }] }] })
            await transaction.commit()
          } catch (e) {
            await transaction.abort()
            throw e // the batch is read again from what was committed
          }
          resolveOffset(part[part.length - 1].offset)
          await heartbeat()
          copied += part.length
          if (copied === n) resolve()
        }
      },
    }).catch(reject)
  })
  await consumer.disconnect()
  await producer.disconnect()
  console.log('copied', copied)
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
