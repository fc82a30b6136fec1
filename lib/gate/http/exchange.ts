/**
 * One request, from its head to the end of its response.
 * Invariant: nothing is dialled, and no byte leaves, before a plan allows the request.
 */
import type { Decision } from '../../audit/record.js'
import { errorMessage } from '../../errors.js'
import { judgeBody } from './body.js'
import type { Client } from './client.js'
import { judge, judgeAuthority } from './decide.js'
import { forward } from './forward.js'
import type { Link } from './link.js'
import { deny, type Field, type Place, type Plan } from './message.js'
import { DeniedError } from './meter.js'
import { refuse } from './refuse.js'
import { parseAuthority } from './target.js'

/** Largest body that is held in memory to be judged, where no rule says less. */
const maxJudged = 4 * 1024 * 1024

/** Bytes of all bodies that are held at a time: a jail must not fill the host's memory through its gate. */
const maxHeld = 64 * 1024 * 1024
let held = 0

/** Serves a request; never rejects. */
export async function exchange(client: Client, link: Link): Promise<void> {
  let place: Place | undefined
  try {
    place = placeOf(client, link)
    await serve(client, place, link)
  } catch (error) {
    const denial =
      error instanceof DeniedError
        ? error.denial
        : deny(502, 'dial-failed', { detail: errorMessage(error).slice(0, 200) })
    refuse(client, place, link, denial)
  }
}

/** The host this request is for: the connection's over TLS, the Host field's otherwise. */
function placeOf(client: Client, link: Link): Place {
  const { authority } = client
  if (authority === undefined) {
    throw new DeniedError(deny(400, 'http-malformed', { detail: 'no Host' }))
  }
  const name = link.isTls ? link.name : parseAuthority(authority)?.name
  if (name === undefined) {
    throw new DeniedError(deny(400, 'http-malformed', { detail: 'Host is not a name' }))
  }
  const place = { name, port: link.port, isTls: link.isTls }
  const denial = judgeAuthority(authority, place)
  if (denial !== undefined) throw new DeniedError(denial)
  return place
}

async function serve(client: Client, place: Place, link: Link): Promise<void> {
  const { context } = link
  const grants = context.findGrants(place.name, place.port)
  if (grants.length === 0) {
    throw new DeniedError(deny(403, context.refusal(place.name, place.port)))
  }
  const judged = judge(client.head, place, grants, context.credentials())
  if (!('length' in judged)) throw new DeniedError(judged)
  const first = judged[0]
  if (first === undefined) throw new DeniedError(deny(403, 'name-not-granted'))
  const { plan, bytes } = await withBody(client, judged, first)
  const spent = context.budget.request(plan.grant)
  if (spent !== undefined) throw new DeniedError(deny(429, spent, { grant: plan.grant }))
  void link.report(decisionOf(client, place, plan))
  if (plan.fields.some(logsInConnection)) link.keepToItself()
  const release = link.use(plan.grant)
  client.onOver(release)
  await forward(client, place, link, plan, bytes)
}

function logsInConnection([name, value]: Field): boolean {
  return name.toLowerCase() === 'authorization' && /^(?:ntlm|negotiate)\b/i.test(value)
}

/** Reads the body first where the judgement needs it. */
async function withBody(
  client: Client,
  plans: readonly Plan[],
  first: Plan,
): Promise<{ plan: Plan; bytes: Buffer | undefined }> {
  if (first.bodyCheck === undefined) return { plan: first, bytes: undefined }
  const limit = Math.max(...plans.map((plan) => Math.min(plan.maxBody ?? maxJudged, maxJudged)))
  const bytes = client.head.hasBody ? await readBody(client, limit, first) : Buffer.alloc(0)
  const outcome = judgeBody(client.head, plans, bytes)
  if (outcome.kind === 'deny') throw new DeniedError(outcome)
  return { plan: outcome.plan, bytes: outcome.bytes }
}

async function readBody(client: Client, limit: number, plan: Plan): Promise<Buffer> {
  client.sendContinue()
  const chunks: Buffer[] = []
  let size = 0
  const tooLarge = () =>
    new DeniedError(
      deny(413, 'body-too-large', { grant: plan.grant, detail: `over ${String(limit)} bytes` }),
    )
  if ((client.head.contentLength ?? 0) > limit) throw tooLarge()
  const request = { isOver: false }
  client.onOver(() => {
    request.isOver = true
    held -= size
  })
  // Not destroyed on the way out: the answer still goes over the same connection.
  for await (const chunk of client.body.iterator({ destroyOnReturn: false })) {
    const { length } = chunk as Buffer
    if (request.isOver) break
    size += length
    held += length
    if (size > limit) throw tooLarge()
    if (held > maxHeld) {
      const detail = 'too many bodies are held at a time'
      throw new DeniedError(deny(503, 'body-too-large', { grant: plan.grant, detail }))
    }
    chunks.push(chunk as Buffer)
  }
  return Buffer.concat(chunks)
}

function decisionOf(client: Client, place: Place, plan: Plan): Decision {
  return {
    verdict: 'allow',
    reason: 'granted',
    layer: 'http',
    direction: 'out',
    proto: 'tcp',
    name: place.name,
    port: place.port,
    grant: plan.grant.id,
    method: client.head.method,
    path: plan.logPath,
    ...(client.head.webSocket ? { detail: 'websocket' } : {}),
  }
}
