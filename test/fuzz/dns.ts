/**
 * Throws mutated queries at the query parser and the filter, and mutated answers at the chain reader.
 * A query it accepts must mean the same to dns-packet, only granted names may be asked upstream, and
 * only addresses that belong to the name's chain may come out: a wrong allow counts as a crash.
 */
import packet, { type Answer, type DecodedPacket } from 'dns-packet'
import { readAnswer } from '../../lib/gate/dns/chain.js'
import type { Answered } from '../../lib/gate/dns/upstream.js'
import { parseQuery } from '../../lib/gate/dns/wire.js'
import { a, aaaa, assemble, cname, edns, grant, policy } from '../gate-kit.js'
import { Random } from './random.js'

/** Gives how many queries were accepted. */
export async function fuzzQuery(count: number, seed: number): Promise<number> {
  const random = new Random(seed)
  const ask = (name: string, type: string, additionals?: typeof edns): Buffer =>
    packet.encode({
      type: 'query',
      id: 1,
      flags: 256,
      questions: [{ name, type: type as 'A', class: 'IN' }],
      ...(additionals === undefined ? {} : { additionals }),
    })
  const seeds = [
    ask('api.example.com', 'A'),
    ask('api.example.com', 'AAAA', edns),
    ask('x.wild.example.org', 'A', edns),
    ask('evil.example', 'A'),
    ask('api.example.com', 'TXT'),
  ]
  const isGranted = (name: string): boolean =>
    name === 'api.example.com' || /^[a-z0-9_-]+\.wild\.example\.org$/.test(name)
  const gate = assemble(
    policy({
      grants: [grant('api.example.com', 443), grant('*.wild.example.org', 443)],
      dns: { rate: 1e9, wildcard: { labels: 3, labelLength: 63, newNames: 1e9 } },
    }),
    {
      upstream: (name) => {
        if (!isGranted(name.toLowerCase())) throw new Error(`asked upstream: ${name}`)
        wrong = isGranted(name.toLowerCase()) ? wrong : name
        return Promise.resolve(decoded([a(name, '203.0.113.1')]))
      },
    },
  )
  let wrong: string | undefined
  let accepted = 0
  for (let n = 0; n < count; n++) {
    const input = random.mutate(random.pick(seeds))
    const query = parseQuery(input)
    const answer = await gate.filter.answer(input, random.below(2) === 0 ? 'udp' : 'tcp')
    const fail = (why: string): never => {
      throw new Error(`input ${String(n)}: ${why}: ${input.toString('hex')}`)
    }
    if (wrong !== undefined) fail(`asked upstream: ${wrong}`)
    if (answer !== undefined) checkAnswer(answer, input, fail, isGranted)
    if (query.kind !== 'query') continue
    accepted++
    const other = packet.decode(input)
    const [question] = other.questions ?? []
    if (other.questions?.length !== 1 || question === undefined) fail('one question?')
    if (query.plain && question?.name.toLowerCase() !== (query.name === '' ? '.' : query.name)) {
      fail(`${query.name} against ${String(question?.name)}`)
    }
  }
  return accepted
}

/** An answer with addresses must be one to a granted name, and well formed. */
function checkAnswer(
  answer: Buffer,
  input: Buffer,
  fail: (why: string) => void,
  isGranted: (name: string) => boolean,
): void {
  const decodedAnswer = packet.decode(answer)
  if (decodedAnswer.id !== input.readUInt16BE(0)) fail('another id')
  for (const record of decodedAnswer.answers ?? []) {
    const name = record.name.toLowerCase()
    if (!isGranted(name) && name !== 'localhost' && !name.endsWith('.localhost'))
      fail(`answered ${name}`)
  }
}

function decoded(answers: Answer[]): Answered {
  const bytes = packet.encode({ type: 'response', questions: [], answers })
  return packet.decode(bytes) as Answered
}

/** Gives how many answers held addresses. */
export function fuzzAnswer(count: number, seed: number): number {
  const random = new Random(seed)
  const name = 'api.example.com'
  const seeds = [
    [a(name, '203.0.113.1'), a(name, '203.0.113.2')],
    [
      cname(name, 'edge.example.net'),
      a('edge.example.net', '203.0.113.3'),
      a('other.example', '198.51.100.1'),
    ],
    [cname(name, 'b.example.net'), cname('b.example.net', name)],
    [aaaa(name, '2001:db8::1'), a('evil.example', '198.51.100.2')],
  ].map((answers) =>
    packet.encode({
      type: 'response',
      id: 1,
      questions: [{ name, type: 'A', class: 'IN' }],
      answers,
    }),
  )
  let held = 0
  for (let n = 0; n < count; n++) {
    const input = random.mutate(random.pick(seeds))
    let answer: Answered
    try {
      answer = packet.decode(input) as Answered
    } catch {
      continue
    }
    const reading = readAnswer(answer, name, 'A')
    if (reading.kind !== 'addresses') continue
    held++
    const reached = reachable(answer, name)
    for (const address of reading.addresses) {
      if (!reached.has(address)) {
        throw new Error(
          `input ${String(n)}: ${address} is not of ${name}: ${input.toString('hex')}`,
        )
      }
    }
    if (reading.addresses.length > 16) throw new Error(`input ${String(n)}: too many addresses`)
  }
  return held
}

/** Addresses at the end of any chain of aliases from `name`: a breadth-first walk over all records. */
function reachable(answer: DecodedPacket, name: string): Set<string> {
  const names = new Set([name])
  const found = new Set<string>()
  for (const owner of names) {
    for (const record of answer.answers ?? []) {
      if (record.name.toLowerCase() !== owner) continue
      if (record.type === 'CNAME') names.add(record.data.toLowerCase().replace(/\.$/, ''))
      if (record.type === 'A') found.add(record.data)
    }
  }
  return found
}
