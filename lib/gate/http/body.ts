/**
 * Judges a whole request body (JSON or form) where a rule or a credential depends on it. Pure.
 * Invariant: a body that two parsers could read differently (duplicate fields, another encoding) is refused.
 */
import { isCredentialParameter } from './foreign.js'
import { contentType, isEncoded } from './decide.js'
import { judgeKey } from './credential.js'
import { type BodyCheck, deny, type Denial, type Plan, type RequestHead } from './message.js'
import { openScan } from './body-scan.js'
import { shortHash } from './secrets.js'
import { parseParameters } from './target.js'
import { topLevelKeys } from './json-keys.js'

export interface JudgedBody {
  readonly kind: 'body'
  readonly plan: Plan
  /** What to send: the bytes as they came, or with the credential put in. */
  readonly bytes: Buffer
}

type Scalar = string | number | boolean

/** A body's top-level fields, whatever its format. */
interface Fields {
  readonly names: readonly string[]
  get(name: string): unknown
  /** The body with a field's value replaced; `undefined`: where it stands is not certain. */
  replace(name: string, from: string, to: string): Buffer | undefined
  /** JSON values keep their type. */
  readonly isTyped: boolean
}

/** The first plan that the body fits, with what to send. */
export function judgeBody(
  head: RequestHead,
  plans: readonly Plan[],
  bytes: Buffer,
): JudgedBody | Denial {
  let last: Denial | undefined
  for (const plan of plans) {
    const outcome = judgePlan(head, plan, bytes)
    if (outcome.kind === 'body') return outcome
    last = { ...outcome, grant: plan.grant }
  }
  return last ?? deny(403, 'body-not-granted')
}

function judgePlan(head: RequestHead, plan: Plan, bytes: Buffer): JudgedBody | Denial {
  const { bodyCheck, credential } = plan
  if (plan.maxBody !== undefined && bytes.length > plan.maxBody) return deny(413, 'body-too-large')
  if (bodyCheck === undefined) return { kind: 'body', plan, bytes }
  const found = openScan(plan.scan)?.look(bytes)
  if (found !== undefined) return found
  const fields = readFields(head, bytes, bodyCheck)
  if (typeof fields === 'string') return deny(403, 'body-not-granted', { detail: fields })
  const ambiguous = findAmbiguous(fields, bodyCheck.json ?? {}, bodyCheck.credentialField)
  if (ambiguous !== undefined) {
    return deny(403, 'body-not-granted', { detail: `field ${ambiguous} twice` })
  }
  if (credential !== undefined) {
    const foreign = fields.names.find(
      (name) => name !== bodyCheck.credentialField && isCredentialParameter(name),
    )
    if (foreign !== undefined) {
      const detail = `field ${foreign.slice(0, 40)} #${shortHash(String(fields.get(foreign)))}`
      return deny(403, 'credential-extra', { detail })
    }
  }
  for (const [name, values] of Object.entries(bodyCheck.json ?? {})) {
    if (!valueFits(fields.get(name), values, fields.isTyped)) {
      return deny(403, 'body-not-granted', { detail: `field ${name}` })
    }
  }
  if (bodyCheck.credentialField === undefined || credential === undefined) {
    return { kind: 'body', plan, bytes }
  }
  const presented = fields.get(bodyCheck.credentialField)
  if (typeof presented !== 'string') return deny(403, 'credential-missing')
  const denial = judgeKey(presented, credential)
  if (denial !== undefined) return denial
  if (credential.mode === 'pin') return { kind: 'body', plan, bytes }
  const rewritten = fields.replace(bodyCheck.credentialField, presented, credential.value)
  if (rewritten !== undefined) return { kind: 'body', plan, bytes: rewritten }
  return deny(403, 'body-not-granted', {
    detail: 'the placeholder stands elsewhere, too, or in escapes',
  })
}

/** Field names that a rule or the credential uses, in a second spelling or a second time. */
function findAmbiguous(
  fields: Fields,
  json: Readonly<Record<string, readonly Scalar[]>>,
  credentialField: string | undefined,
): string | undefined {
  const judged = [...Object.keys(json), ...(credentialField === undefined ? [] : [credentialField])]
  return judged.find((name) => {
    const alike = fields.names.filter((other) => plain(other) === plain(name))
    return alike.length > 1 || (alike.length === 1 && alike[0] !== name)
  })
}

function plain(name: string): string {
  return name.trim().toLowerCase().replace(/\[.*$/s, '')
}

/** A chat id may come as a number or as its text: servers take both for the same. */
function valueFits(value: unknown, allowed: readonly Scalar[], isTyped: boolean): boolean {
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') {
    return false
  }
  if (isTyped && typeof value === 'boolean') return allowed.includes(value)
  // Rounded here, and another number to a server that reads all its digits.
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) return false
  return allowed.some((each) => String(each) === String(value))
}

/** A string: why the body can't be judged. */
function readFields(head: RequestHead, bytes: Buffer, check: BodyCheck): Fields | string {
  if (isEncoded(head)) return 'compressed body'
  const match = /^([a-z0-9.+-]+\/[a-z0-9.+-]+)\s*(?:$|;(.*)$)/.exec(contentType(head))
  const type = match?.[1]
  const charset = /charset\s*=\s*"?([^";\s]*)/.exec(match?.[2] ?? '')?.[1]
  if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8') return 'charset'
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return 'not UTF-8'
  }
  if (type === 'application/json' || type?.endsWith('+json') === true) return readJson(text)
  if (type === 'application/x-www-form-urlencoded') return readForm(text)
  // Only to find what may not be there: what must be there has to be sure of its type.
  const mustBeThere = check.json !== undefined || check.credentialField !== undefined
  if (type === undefined && !mustBeThere) return readForm(text)
  return 'neither JSON nor a form'
}

function readJson(text: string): Fields | string {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return 'not JSON'
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'no JSON object'
  const members = new Map<string, unknown>(Object.entries(value))
  return {
    names: topLevelKeys(text),
    get: (name) => members.get(name),
    replace: (name, from, to) => {
      // The placeholder is random: a second one was put there for the real key to be spilled into.
      const [before, after, ...more] = text.split(JSON.stringify(from))
      if (before === undefined || after === undefined || more.length > 0) return undefined
      const written = before + JSON.stringify(to) + after
      // The field itself may have it in escapes, and the one that was found be another.
      const field: unknown = (JSON.parse(written) as Record<string, unknown>)[name]
      return field === to ? Buffer.from(written) : undefined
    },
    isTyped: true,
  }
}

function readForm(text: string): Fields | string {
  const parameters = parseParameters(text)
  if (parameters === undefined) return 'form encoding'
  // Old servers split at `;` too.
  if (parameters.some(({ raw }) => raw.includes(';'))) return 'form with semicolons'
  return {
    names: parameters.map(({ name }) => name),
    get: (name) => parameters.find((parameter) => parameter.name === name)?.value,
    replace: (name, _from, to) =>
      Buffer.from(
        parameters
          .map((parameter) =>
            parameter.name === name
              ? `${encodeURIComponent(name)}=${encodeURIComponent(to)}`
              : parameter.raw,
          )
          .join('&'),
      ),
    isTyped: false,
  }
}
