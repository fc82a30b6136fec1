/**
 * The machine's configuration, /etc/agentjail/config.yaml.
 * Invariant: read only where nobody but root could have written it; a mistake stops everything,
 * with file, line and column, and never falls back to a default.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  type Stats,
} from 'node:fs'
import { dirname } from 'node:path'
import { defaultAnchor } from '../backend/pf/names.js'
import type { UidRange } from '../backend/types.js'
import { JailError, errnoCode, errorMessage } from '../errors.js'
import type { Settings } from '../plan/types.js'
import { paths } from './units.js'

export interface Config extends Settings {
  /** Resolvers the gate asks instead of the host's own. */
  readonly upstreams: readonly { readonly address: string; readonly port: number }[]
  /** macOS: where the rules stand. */
  readonly pfAnchor: string
}

/** Where each platform keeps state that a restart clears, and what lasts. */
const { stateDir, homeDir } = {
  linux: { stateDir: '/run/agentjail', homeDir: '/var/lib/agentjail/home' },
  darwin: { stateDir: '/var/run/agentjail', homeDir: '/var/agentjail/home' },
}[process.platform === 'darwin' ? 'darwin' : 'linux']

export const defaultConfig: Config = {
  uidRange: { first: 1_900_000_000, last: 1_900_099_999 },
  stateDir,
  logDir: '/var/log/agentjail',
  homeDir,
  gateUser: 'agentjail-gate',
  upstreams: [],
  pfAnchor: defaultAnchor,
}

/** What `setup` writes: everything as it is without the file. */
export const defaultConfigText = `# agentjail: settings of this machine. Each line shows the default.

# User ids reserved for jails; no other account may lie in it. Change it only while there is no jail.
# uidRange: ${rangeText(defaultConfig.uidRange)}

# DNS servers for granted names; without this line, the host's own (/etc/resolv.conf).
# upstreams: [192.0.2.53, '192.0.2.54:5353', '[2001:db8::53]:53']

# stateDir: ${defaultConfig.stateDir}
# logDir: ${defaultConfig.logDir}
# homeDir: ${defaultConfig.homeDir}
# gateUser: ${defaultConfig.gateUser}

# macOS: the pf anchor of all jails. Another one must be called by /etc/pf.conf, and is changed while nothing is set up.
# pfAnchor: ${defaultConfig.pfAnchor}
`

export function rangeText({ first, last }: UidRange): string {
  return `${String(first)}-${String(last)}`
}

/** Larger is no configuration. */
const maxBytes = 64 * 1024

/** Throws CONFIG_INVALID with `file:line:column`, or POLICY_UNSAFE where others can write it. */
export async function loadConfig(path: string = paths.config): Promise<Config> {
  const text = readOwn(path)
  // Most machines have no setting, and the YAML parser costs tens of milliseconds at each start.
  if (text === undefined || text.split('\n').every((line) => /^\s*(?:#.*)?$/.test(line))) {
    return defaultConfig
  }
  const { parseConfig } = await import('./config-parse.js')
  return parseConfig(text, path)
}

function readOwn(path: string): string | undefined {
  let file
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined
    throw new JailError('STATE', `cannot read ${path}: ${errorMessage(error)}`, { cause: error })
  }
  try {
    const stat = fstatSync(file)
    if (!stat.isFile() || stat.size > maxBytes) {
      throw new JailError('STATE', `${path} is no configuration file`)
    }
    refuseForeign(path, stat)
    refuseForeign(dirname(path), lstatSync(dirname(path)))
    return readFileSync(file, 'utf8')
  } finally {
    closeSync(file)
  }
}

function refuseForeign(path: string, stat: Stats): void {
  if (stat.uid === 0 && (stat.mode & 0o022) === 0) return
  throw new JailError('POLICY_UNSAFE', `${path} can be changed by others than root`, {
    hint: `look at it, then: chown root:root ${path} && chmod go-w ${path}`,
  })
}
