/**
 * The text of config.yaml to `Config`. Apart from its reader, so that YAML is loaded only where needed. Pure.
 */
import { LineCounter, isMap, isScalar, isSeq, parseDocument, type Node, type Pair } from 'yaml'
import { isAnchorPath } from '../backend/pf/names.js'
import type { UidRange } from '../backend/types.js'
import { JailError } from '../errors.js'
import { canonicalAddress } from '../policy/addresses.js'
import { type Config, defaultConfig } from './config.js'

/**
 * Below lie the system's and people's accounts and systemd's ranges, above systemd's foreign ids and
 * numbers that programs take for negative (systemd's docs/UIDS-GIDS.md).
 */
const lowestUid = 100_000
const highestUid = 2_147_352_575

type Place = { readonly range?: readonly number[] | null | undefined }

/** Throws CONFIG_INVALID naming every mistake. */
export function parseConfig(text: string, file: string): Config {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true })
  const problems: string[] = []
  const report = (at: number, what: string): void => {
    const { line, col } = lines.linePos(at)
    problems.push(`${file}:${String(line)}:${String(col)}: ${what}`)
  }
  const refuse = (node: Place | null, what: string): undefined => {
    report(node?.range?.[0] ?? 0, what)
    return undefined
  }
  for (const error of document.errors) {
    report(error.pos[0], error.message.split('\n')[0]?.replace(/ at line \d.*$/, '') ?? 'not YAML')
  }
  const root = document.contents
  const found: { -readonly [K in keyof Config]?: Config[K] } = {}
  if (root !== null && !isMap(root)) refuse(root, 'a configuration is a list of `key: value`')
  for (const { key, value } of isMap(root) ? (root.items as Pair<Node, Node | null>[]) : []) {
    const name = isScalar(key) ? String(key.value) : ''
    switch (name) {
      case 'uidRange':
        assign(found, name, parseRange(value, refuse))
        break
      case 'upstreams':
        assign(found, name, parseUpstreams(value, refuse))
        break
      case 'stateDir':
      case 'logDir':
      case 'homeDir':
        assign(found, name, parsePath(value, refuse))
        break
      case 'gateUser':
        assign(found, name, parseUser(value, refuse))
        break
      case 'pfAnchor':
        assign(found, name, parseAnchor(value, refuse))
        break
      default:
        refuse(key, `unknown key ${JSON.stringify(name)}; known: ${known.join(', ')}`)
    }
  }
  if (problems.length > 0) throw new JailError('CONFIG_INVALID', problems.join('\n'))
  return { ...defaultConfig, ...found }
}

const known = Object.keys(defaultConfig)

type Refuse = (node: Place | null, what: string) => undefined

function assign<K extends keyof Config>(
  into: { -readonly [P in keyof Config]?: Config[P] },
  key: K,
  value: Config[K] | undefined,
): void {
  if (value !== undefined) into[key] = value
}

function textOf(node: Node | null): string | undefined {
  return isScalar(node) && (typeof node.value === 'string' || typeof node.value === 'number')
    ? String(node.value)
    : undefined
}

function parseRange(node: Node | null, refuse: Refuse): UidRange | undefined {
  const match = /^(\d{1,10})-(\d{1,10})$/.exec(textOf(node) ?? '')
  if (!match) return refuse(node, 'uidRange is FIRST-LAST, e.g. 1900000000-1900099999')
  const [first, last] = [Number(match[1]), Number(match[2])]
  if (first < lowestUid || last > highestUid) {
    return refuse(node, `uidRange lies within ${String(lowestUid)}-${String(highestUid)}`)
  }
  if (last - first < 15) return refuse(node, 'uidRange holds at least 16 ids, first before last')
  return { first, last }
}

function parsePath(node: Node | null, refuse: Refuse): string | undefined {
  const text = textOf(node) ?? ''
  // At least two deep: these directories are emptied by `uninstall`.
  const isGood = /^(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}$/.test(text)
  return isGood ? text : refuse(node, 'an absolute path of plain letters, e.g. /var/log/agentjail')
}

function parseUser(node: Node | null, refuse: Refuse): string | undefined {
  const text = textOf(node) ?? ''
  const isGood = /^[a-z][a-z0-9-]{0,30}$/.test(text) && text !== 'root'
  return isGood ? text : refuse(node, 'gateUser is the name of an account, e.g. agentjail-gate')
}

function parseAnchor(node: Node | null, refuse: Refuse): string | undefined {
  const text = textOf(node) ?? ''
  const right = `pfAnchor is ${defaultConfig.pfAnchor}, or one name of at most 15 letters, digits, dots and hyphens`
  return isAnchorPath(text) ? text : refuse(node, right)
}

function parseUpstreams(node: Node | null, refuse: Refuse): Config['upstreams'] | undefined {
  if (!isSeq(node))
    return refuse(node, "upstreams is a list, e.g. [192.0.2.53, '[2001:db8::1]:53']")
  const parsed = (node.items as Node[]).map((item) => {
    const text = textOf(item) ?? ''
    const match = /^(?:\[([^\]]+)\]|([^:]+|[^[\]]*:[^[\]]*:[^[\]]*))(?::(\d{1,5}))?$/.exec(text)
    const bare = canonicalAddress(text)
    const address = bare ?? canonicalAddress(match?.[1] ?? match?.[2] ?? '')
    const port = bare !== undefined || match?.[3] === undefined ? 53 : Number(match[3])
    return address === undefined || port < 1 || port > 65535
      ? refuse(item, "a resolver is an address with or without a port, e.g. '192.0.2.53:53'")
      : { address, port }
  })
  return parsed.every((upstream) => upstream !== undefined) ? parsed : undefined
}
