/**
 * Which firewall the lab's host has: nftables, or, by AGENTJAIL_BACKEND, iptables and ipset without nft.
 * agentjail is not told: it finds what is there, as on any machine.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync, symlinkSync } from 'node:fs'
import type { Sides } from './namespaces.js'

export const firewalls = ['nftables', 'iptables-nft', 'iptables-legacy'] as const
export type Firewall = (typeof firewalls)[number]

const parseFirewall = (name: string): Firewall => {
  const found = firewalls.find((one) => one === name)
  if (found === undefined) throw new Error(`AGENTJAIL_BACKEND: one of ${firewalls.join(', ')}`)
  return found
}

export const firewall: Firewall = parseFirewall(process.env['AGENTJAIL_BACKEND'] ?? 'nftables')

const nft = '/usr/sbin/nft'

/** On the host's own root alone: no nft, and the plain names lead to the variant. */
export const prepareFirewall = (sides: Sides, firewall: Firewall): void => {
  if (firewall === 'nftables') return
  const root = `/proc/${sides.host}/root`
  rmSync(root + nft)
  for (const six of ['iptables', 'ip6tables']) {
    for (const end of ['', '-save', '-restore']) {
      const path = `${root}/usr/sbin/${six}${end}`
      const target = `/usr/sbin/${firewall.replace('iptables', six)}${end}`
      if (!existsSync(root + target)) throw new Error(`the lab needs ${target}`)
      rmSync(path, { force: true })
      symlinkSync(target, path)
    }
  }
}

/** nft of the machine, in the host's network: for looking, where the host itself has none. */
const machineNft = (sides: Sides, args: readonly string[]): string => {
  const argv = ['-t', String(sides.host), '-n', '--', nft, ...args]
  const { status, stdout, stderr } = spawnSync('/usr/bin/nsenter', argv, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`nft ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** What an empty machine lists, too; and how often a rule was met. */
const idle = /^(#|\*|COMMIT$|:(INPUT|OUTPUT|FORWARD|PREROUTING|POSTROUTING) )/

/** All rules and sets of the host, one a line. `show` runs a program there and gives its output. */
export const listRules = async (
  sides: Sides,
  firewall: Firewall,
  show: (argv: readonly string[]) => Promise<string>,
): Promise<string[]> => {
  if (firewall === 'nftables') return lines(await show(['nft', 'list', 'ruleset']))
  const saved = [['iptables-save'], ['ip6tables-save'], ['ipset', 'list', '-name']].map(show)
  return [
    ...(await Promise.all(saved)).flatMap(lines),
    ...lines(machineNft(sides, ['list', 'ruleset', 'inet'])),
  ]
    .filter((line) => !idle.test(line))
    .map((line) => line.replace(/ \[\d+:\d+\]$/, ''))
}

const lines = (text: string) => text.split('\n').filter((line) => line.trim() !== '')

/** The program whose loss is the loss of the firewall. */
export const tool = { nftables: nft, other: '/usr/sbin/iptables-restore' }[
  firewall === 'nftables' ? 'nftables' : 'other'
]

const sh = (...commands: readonly string[]): readonly string[] => [
  ...['sh', '-ec', commands.join('\n')],
]
/** For both families. */
const both = (rest: string) => [`iptables ${rest}`, `ip6tables ${rest}`]

/** What other tools do to rules that are not theirs. */
export const damage: Readonly<
  Record<'everything' | 'ours' | 'lead' | 'rule' | 'deny', readonly string[]>
> & {
  /** Switches a table off without taking it away; there is none of that with iptables. */
  readonly off?: (table: string) => readonly string[]
} =
  firewall === 'nftables'
    ? {
        everything: ['nft', 'flush', 'ruleset'],
        ours: ['nft', 'delete', 'table', 'inet', 'agentjail_uid'],
        lead: sh('nft delete element inet agentjail_uid jails "{ $(id -u aj-faults) }"'),
        rule: ['nft', 'flush', 'chain', 'inet', 'agentjail_uid', 'held'],
        deny: ['nft', 'delete', 'table', 'inet', 'agentjail'],
        off: (table) => ['nft', `add table inet ${table} { flags dormant; }`],
      }
    : {
        everything: sh(
          ...['filter', 'security', 'nat'].flatMap((table) => [
            ...both(`-t ${table} -F`),
            ...both(`-t ${table} -X`),
          ]),
        ),
        ours: sh(...both('-F AGENTJAIL'), ...both('-F AGENTJAIL_HELD')),
        lead: sh(
          ...both('-D AGENTJAIL_HELD -m owner --uid-owner aj-faults -g AJ-$(id -u aj-faults)'),
        ),
        rule: sh(...both('-F AGENTJAIL_REJECT')),
        deny: sh(...both('-t security -F AGENTJAIL')),
      }

/** In `listRules` while the deny of the reserved range is in force. */
export const denyLine =
  firewall === 'nftables' ? 'table inet agentjail {' : '-A OUTPUT -j AGENTJAIL'
/** In `listRules` while a jail has rules of its own. */
export const jailLine = /jail_|AJ-\d/
