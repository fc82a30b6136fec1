/**
 * The command's environment: rebuilt, never filtered. Pure.
 * Invariant: nothing of the caller's gets in unless it is in the base list or the policy passes it by name.
 */
import { dirname } from 'node:path'
import type { Policy } from '../policy/types.js'
import type { AccountFacts } from './types.js'

/** Terminal and language: they carry no authority. */
const passed = [
  'TERM',
  'COLORTERM',
  'NO_COLOR',
  'FORCE_COLOR',
  'LANG',
  'LANGUAGE',
  'TZ',
  'COLUMNS',
  'LINES',
]
const safePath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']

export interface EnvironmentFacts {
  readonly account: AccountFacts
  readonly callerEnv: Readonly<Record<string, string | undefined>>
  readonly nodePath: string
}

/** Base, then what the policy passes, then what it sets; credentials are added at run time. */
export function jailEnvironment(policy: Policy, facts: EnvironmentFacts): Map<string, string> {
  const env = new Map<string, string>()
  const names = [
    ...passed,
    ...Object.keys(facts.callerEnv).filter((name) => name.startsWith('LC_')),
    ...policy.env.pass,
  ]
  for (const name of names) {
    const value = facts.callerEnv[name]
    if (value !== undefined) env.set(name, value)
  }
  env.set('HOME', facts.account.home)
  env.set('USER', facts.account.name)
  env.set('LOGNAME', facts.account.name)
  env.set('SHELL', '/bin/sh')
  env.set('TMPDIR', '/tmp')
  if (!policy.env.pass.includes('PATH')) env.set('PATH', commandPath(facts.nodePath))
  for (const [name, value] of policy.env.set) env.set(name, value)
  return env
}

/** The usual directories, and the one of the Node that is running, which may live elsewhere. */
function commandPath(nodePath: string): string {
  const node = dirname(nodePath)
  return (safePath.includes(node) ? safePath : [node, ...safePath]).join(':')
}
