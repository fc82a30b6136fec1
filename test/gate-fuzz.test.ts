/**
 * The short fuzz run of the gate's parsers, and a proof that the oracle can object.
 */
import t from 'tap'
import { makeHello, serverName } from './gate-hellos.js'
import { fuzzAnswer, fuzzQuery } from './fuzz/dns.js'
import { fuzzHello, readSlowly } from './fuzz/hello.js'
import { runs, seed } from './fuzz/random.js'
import { fuzzRetry } from './fuzz/retry.js'

t.test('parsers survive, and allow nothing wrongly', async (t) => {
  for (const [name, accepted] of [
    ['hello', await fuzzHello(runs, seed)],
    ['retry', fuzzRetry(runs, seed)],
    ['query', await fuzzQuery(runs, seed)],
    ['answer', fuzzAnswer(runs, seed)],
  ] as const) {
    // A run that accepts nothing would test nothing.
    t.ok(accepted > runs / 100, `${name}: ${String(accepted)} accepted`)
  }
})

t.test('the slow reading is one of its own', (t) => {
  t.equal(readSlowly(makeHello({ name: 'API.example.com', recordSize: 9 })), 'api.example.com')
  t.equal(readSlowly(makeHello({})), undefined)
  t.equal(
    readSlowly(makeHello({ serverNames: [serverName([0, 'a.example'], [0, 'b.example'])] })),
    undefined,
  )
  t.end()
})
