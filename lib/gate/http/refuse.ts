/**
 * Refuses a request: one record, one answer, the same reason in both.
 * Invariant: what is logged holds no query and no key.
 */
import type { Decision } from '../../audit/record.js'
import { findRemedy } from '../../audit/remedy.js'
import { answerDenial } from './answer.js'
import type { Client } from './client.js'
import type { Link } from './link.js'
import type { Denial, Place } from './message.js'

/** Logs a denial and tells the client. */
export function refuse(client: Client, place: Place | undefined, link: Link, denial: Denial): void {
  // A client that went away was refused nothing.
  if (client.isGone()) return
  const decision: Decision = {
    verdict: 'deny',
    reason: denial.reason,
    layer: 'http',
    direction: 'out',
    proto: 'tcp',
    ...(place === undefined ? {} : { name: place.name }),
    port: link.port,
    ...(denial.grant === undefined ? {} : { grant: denial.grant.id }),
    method: client.head.method.slice(0, 40),
    path: link.logPath(client.head.target),
    ...(denial.detail === undefined ? {} : { detail: denial.detail.slice(0, 256) }),
  }
  const remedy = findRemedy({ ...decision, ...denial.asked }, denial.grant, '')
  // The question of a challenge is how git logs in, not a refusal.
  const look = denial.challenge === true ? undefined : link.report(decision)
  if (look === undefined) answerDenial(client, place, denial, remedy)
  else
    void look.then(() => {
      if (!client.isGone()) answerDenial(client, place, denial, remedy)
    })
}
