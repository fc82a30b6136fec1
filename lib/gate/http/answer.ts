/**
 * What a refused client is told: the same reason as in the log, and what would allow the request.
 * Invariant: no secret of the request or the policy is in it.
 */
import { reasons } from '../../audit/record.js'
import type { Remedy } from '../../audit/remedy.js'
import type { Client } from './client.js'
import type { Denial, Field, Place } from './message.js'

/** Answers a denial and ends the exchange; cuts it where the response had begun. */
export function answerDenial(
  client: Client,
  place: Place | undefined,
  denial: Denial,
  remedy: Remedy,
): void {
  if (client.isBegun()) {
    client.cut()
    return
  }
  const text = `${JSON.stringify(explain(client, place, denial, remedy), null, 2)}\n`
  const fields: Field[] = [
    ['content-type', 'application/json'],
    ['content-length', String(Buffer.byteLength(text))],
    ['cache-control', 'no-store'],
    ['x-agentjail-denied', denial.reason],
  ]
  if (denial.challenge === true) {
    fields.push(['www-authenticate', 'Basic realm="agentjail: the key of the policy"'])
  }
  const out = client.respond({ status: denial.status, statusText: 'Denied', fields })
  out.on('error', () => undefined)
  out.end(client.head.method === 'HEAD' ? undefined : text)
}

function explain(
  client: Client,
  place: Place | undefined,
  denial: Denial,
  { yaml, under, advice }: Remedy,
): object {
  const words = reasons[denial.reason]
  return {
    agentjail: 'denied',
    reason: denial.reason,
    message: words,
    // SDKs show `error.message` to their users.
    error: { type: 'agentjail_denied', code: denial.reason, message: `agentjail: ${words}` },
    ...(place === undefined ? {} : { host: place.name, port: place.port }),
    method: client.head.method,
    // For whoever reads the command's output: only the policy's owner can write it there.
    ...(yaml === undefined ? {} : { policy: { under, yaml } }),
    ...(advice === undefined ? {} : { advice }),
  }
}
