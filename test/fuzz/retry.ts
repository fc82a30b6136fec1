/**
 * Throws mutated flights behind a first ClientHello at the watch for a second one, in pieces. What it lets through must,
 * by a slow reading of its own, hold no whole hello but one with the first's name, and none that no server asked for.
 */
import { RetryWatch } from '../../lib/gate/sni/retry.js'
import { makeHello } from '../gate-hellos.js'
import { readSlowly } from './hello.js'
import { Random } from './random.js'

const name = 'api.example.com'
/** RFC 8446 sections 4.1.3 and 4.1.4: a ServerHello with this random. */
const retry = Buffer.concat([
  Buffer.from([22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3]),
  Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex'),
  Buffer.from([0, 0x13, 1, 0, 0, 0]),
])
const early = Buffer.concat([Buffer.from([23, 3, 3, 0, 30]), Buffer.alloc(30, 22)])
const compat = Buffer.from([20, 3, 3, 0, 1, 1])

/** Runs `count` inputs; throws on the first wrong allow. Gives how many whole second hellos went through. */
export function fuzzRetry(count: number, seed: number): number {
  const random = new Random(seed)
  const [same, pieces] = [makeHello({ name }), makeHello({ name, recordSize: 30 })]
  const other = makeHello({ name: 'evil.example.org' })
  const flights = [
    same,
    pieces,
    other,
    makeHello({}),
    Buffer.concat([compat, same]),
    Buffer.concat([early, early, pieces]),
    Buffer.concat([early, compat, other]),
    Buffer.concat([compat, makeHello({ name: 'evil.example.org', recordSize: 9 })]),
  ]
  let accepted = 0
  for (let n = 0; n < count; n++) {
    const flight = random.mutate(random.pick(flights))
    const isAsked = random.below(8) > 0
    const passed = letThrough(flight, isAsked, random)
    const hello = secondHello(passed)
    if (hello === undefined) continue
    if (!isAsked || (isWhole(hello) && readSlowly(hello) !== name))
      throw new Error(
        `input ${String(n)}: passed, asked ${String(isAsked)}: ${passed.toString('hex')}`,
      )
    if (isWhole(hello)) accepted++
  }
  return accepted
}

/** The pieces that the watch agrees to, up to the first that it does not. */
function letThrough(flight: Buffer, isAsked: boolean, random: Random): Buffer {
  const watch = new RetryWatch(name)
  if (isAsked) {
    const cut = random.below(retry.length)
    for (const piece of [retry.subarray(0, cut), retry.subarray(cut)])
      if (!watch.down(piece)) throw new Error('a proper answer is refused')
  }
  const passed: Buffer[] = []
  for (let at = 0; at < flight.length;) {
    const piece = flight.subarray(at, at + 1 + random.below(random.below(4) === 0 ? 4 : 200))
    if (!watch.isOver && !watch.up(piece)) break
    passed.push(piece)
    at += piece.length
  }
  return Buffer.concat(passed)
}

/** From the first handshake record on, if the records before it are of kinds that a server skips or reads as data. */
function secondHello(passed: Buffer): Buffer | undefined {
  let at = 0
  while (at + 5 <= passed.length) {
    if (passed[at + 1] !== 3) return undefined
    if (passed[at] === 22) return passed.subarray(at)
    if (![20, 21, 23, 24].includes(passed[at] ?? 0)) return undefined
    at += 5 + passed.readUInt16BE(at + 3)
  }
  return undefined
}

/** As many bytes of handshake as the message says it has. */
function isWhole(hello: Buffer): boolean {
  const parts: Buffer[] = []
  for (let at = 0; at + 5 <= hello.length && hello[at] === 22;) {
    const length = hello.readUInt16BE(at + 3)
    if (at + 5 + length > hello.length) break
    parts.push(hello.subarray(at + 5, at + 5 + length))
    at += 5 + length
  }
  const handshake = Buffer.concat(parts)
  return handshake.length >= 4 && handshake.length >= 4 + handshake.readUIntBE(1, 3)
}
