/**
 * How many decisions a second the audit log takes, and whether any is lost uncounted.
 * `node dist/bench/audit.js [events a second] [seconds]` prints JSON.
 */
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { openAuditLog } from '../lib/audit/log.js'
import type { Decision } from '../lib/audit/record.js'

const perSecond = Number(process.argv[2] ?? 50_000)
const seconds = Number(process.argv[3] ?? 3)
/** As the gate batches them. */
const batches = 20

const decision = (port: number): Decision => ({
  verdict: 'allow',
  reason: 'granted',
  layer: 'tcp',
  direction: 'out',
  proto: 'tcp',
  name: 'api.example.com',
  address: '203.0.113.10',
  port: port % 65_536,
  grant: 'g1',
})

const dir = await mkdtemp(join(tmpdir(), 'agentjail-bench-'))
try {
  for (const [title, limits] of [
    ['unlimited rate', { rate: 1e7, burst: 1e7 }],
    ['default rate', {}],
  ] as const) {
    const jail = title.replace(' ', '-')
    const log = await openAuditLog({ dir, jail, uid: 1, files: 10, ...limits })
    const started = performance.now()
    let busy = 0
    let sent = 0
    for (let batch = 0; batch < seconds * batches; batch++) {
      const before = performance.now()
      const count = Math.floor(perSecond / batches)
      log.write(Array.from({ length: count }, (_, i) => decision(sent + i)))
      sent += count
      busy += performance.now() - before
      const due = started + ((batch + 1) * 1000) / batches
      await delay(Math.max(0, due - performance.now()))
    }
    await log.close()
    const elapsed = performance.now() - started
    const found = await countLines(dir, jail)
    const result = {
      title,
      sent,
      perSecond: Math.round((sent * 1000) / elapsed),
      written: log.written,
      dropped: log.dropped,
      uncounted: sent - log.written - log.dropped,
      inFiles: found,
      microsecondsEach: Number(((busy * 1000) / sent).toFixed(2)),
    }
    process.stdout.write(`${JSON.stringify(result)}\n`)
  }
} finally {
  await rm(dir, { recursive: true })
}

async function countLines(from: string, jail: string): Promise<number> {
  let lines = 0
  for (const file of await readdir(from)) {
    if (!file.startsWith(jail)) continue
    const text = await readFile(join(from, file), 'utf8')
    lines += text.split('\n').filter((line) => line.includes('"verdict"')).length
  }
  return lines
}
