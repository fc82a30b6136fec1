/**
 * The long fuzz run of the gate's parsers, `npm run fuzz`: a million inputs each, or FUZZ_N.
 * Invariant: deterministic for a given FUZZ_SEED.
 */
import { fuzzAnswer, fuzzQuery } from './dns.js'
import { fuzzHello } from './hello.js'
import { seed } from './random.js'
import { fuzzRetry } from './retry.js'

const runs = Number(process.env['FUZZ_N'] ?? 1_000_000)

const results = {
  hello: await fuzzHello(runs, seed),
  retry: fuzzRetry(runs, seed),
  query: await fuzzQuery(runs, seed),
  answer: fuzzAnswer(runs, seed),
}
for (const [name, accepted] of Object.entries(results)) {
  process.stdout.write(
    `${name}: ${String(runs)} inputs, ${String(accepted)} accepted, seed ${String(seed)}\n`,
  )
}
