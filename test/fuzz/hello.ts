/**
 * Throws mutated ClientHellos at the parser. A name it gives must be what a slow, independent reading
 * of the bytes gives as well: a wrong allow counts as a crash.
 */
import { parseHello } from '../../lib/gate/sni/hello.js'
import { makeHello, nodeHello, serverName } from '../gate-hellos.js'
import { Random } from './random.js'

/** Runs `count` inputs; throws on the first disagreement. Gives how many were accepted. */
export async function fuzzHello(count: number, seed: number): Promise<number> {
  const random = new Random(seed)
  const seeds = [
    makeHello({ name: 'api.example.com' }),
    makeHello({ name: 'api.example.com', recordSize: 30 }),
    makeHello({ name: 'a.b.example.com', extensions: [[0xfe0d, random.bytes(40)]] }),
    makeHello({ serverNames: [serverName([0, 'api.example.com'], [0, 'evil.example'])] }),
    makeHello({}),
    await nodeHello({ servername: 'real.example.com', ALPNProtocols: ['h2'] }),
  ]
  let accepted = 0
  for (let n = 0; n < count; n++) {
    const input = random.mutate(random.pick(seeds))
    const hello = parseHello(input)
    if (hello.kind !== 'hello') continue
    accepted++
    const slow = readSlowly(input)
    if (slow !== hello.name) {
      throw new Error(
        `input ${String(n)}: ${hello.name} against ${String(slow)}: ${input.toString('hex')}`,
      )
    }
  }
  return accepted
}

/**
 * The host name by a second reading of RFC 8446 and RFC 6066, over a string of hex digits, with
 * nothing shared with the parser; `undefined`: there is no one name.
 */
export function readSlowly(input: Buffer): string | undefined {
  let hex = input.toString('hex')
  let handshake = ''
  const take = (bytes: number): string => {
    if (hex.length < 2 * bytes) throw new RangeError()
    const taken = hex.slice(0, 2 * bytes)
    hex = hex.slice(2 * bytes)
    return taken
  }
  const number = (bytes: number): number => parseInt(take(bytes), 16)
  try {
    do {
      if (take(1) !== '16') return undefined
      take(2)
      handshake += take(number(2))
    } while (handshake.length < 8 || handshake.length < 8 + 2 * parseInt(handshake.slice(2, 8), 16))
    hex = handshake
    if (take(1) !== '01') return undefined
    if (number(3) * 2 !== hex.length) return undefined
    take(34)
    take(number(1))
    take(number(2))
    take(number(1))
    const extensions = take(number(2))
    if (hex !== '') return undefined
    hex = extensions
    const names: string[] = []
    while (hex !== '') {
      const type = take(2)
      const data = take(number(2))
      if (type === '0000') names.push(data)
    }
    if (names.length !== 1) return undefined
    hex = names[0] ?? ''
    if (number(2) * 2 !== hex.length || take(1) !== '00') return undefined
    const text = Buffer.from(take(number(2)), 'hex').toString('latin1')
    if (hex !== '' || !/^(?:[\w-]{1,63}\.)+[a-z][\w-]*$/i.test(text)) return undefined
    return text.toLowerCase()
  } catch (error) {
    if (error instanceof RangeError) return undefined
    throw error
  }
}
