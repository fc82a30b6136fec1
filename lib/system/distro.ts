/**
 * Which distribution this is, and how it installs what agentjail needs. Pure.
 * Invariant: package names come from the table here, never from the outside.
 */

type PackageManager = 'apt' | 'dnf' | 'apk' | 'pacman' | 'zypper'

export interface Distro {
  /** `ID` of os-release(5), e.g. `debian`. */
  readonly id: string
  /** `PRETTY_NAME`, for people. */
  readonly title: string
  /** `undefined`: not one we know. */
  readonly manager: PackageManager | undefined
}

const managerOf: ReadonlyMap<string, PackageManager> = new Map([
  ['debian', 'apt'],
  ['ubuntu', 'apt'],
  ['fedora', 'dnf'],
  ['rhel', 'dnf'],
  ['centos', 'dnf'],
  ['alpine', 'apk'],
  ['arch', 'pacman'],
  ['suse', 'zypper'],
  ['opensuse', 'zypper'],
])

/** By `ID`, then by `ID_LIKE` in order. */
export function parseOsRelease(text: string): Distro {
  const fields = new Map(
    text.split('\n').flatMap((line) => {
      const match = /^([A-Z_]+)=(?:"([^"]*)"|'([^']*)'|(\S*))\s*$/.exec(line)
      return match?.[1] ? [[match[1], match[2] ?? match[3] ?? match[4] ?? ''] as const] : []
    }),
  )
  const id = fields.get('ID') ?? 'linux'
  const likes = [id, ...(fields.get('ID_LIKE') ?? '').split(/\s+/)]
  const manager = likes.map((like) => managerOf.get(like)).find((found) => found !== undefined)
  return { id, title: fields.get('PRETTY_NAME') ?? id, manager }
}

/** In the order of `managers`. */
type Names = readonly [apt: string, dnf: string, apk: string, pacman: string, zypper: string]
const managers: readonly PackageManager[] = ['apt', 'dnf', 'apk', 'pacman', 'zypper']

const all = (name: string): Names => [name, name, name, name, name]
// Alpine splits util-linux (aports: main/util-linux) and lets busybox provide less.
const utilLinux = (alpine: string): Names => [
  'util-linux',
  'util-linux',
  alpine,
  'util-linux',
  'util-linux',
]
const shadow: Names = ['passwd', 'shadow-utils', 'shadow', 'shadow', 'shadow']

const packageOf: ReadonlyMap<string, Names> = new Map<string, Names>([
  ['nft', all('nftables')],
  ['bwrap', all('bubblewrap')],
  ['ip', ['iproute2', 'iproute', 'iproute2', 'iproute2', 'iproute2']],
  ['nsenter', utilLinux('util-linux-misc')],
  ['unshare', utilLinux('util-linux-misc')],
  ['prlimit', utilLinux('util-linux-misc')],
  ['mount', utilLinux('mount')],
  ['setpriv', utilLinux('setpriv')],
  ['perl', ['perl-base', 'perl-interpreter', 'perl', 'perl', 'perl-base']],
  ['useradd', shadow],
  ['userdel', shadow],
  ['usermod', shadow],
  ['getent', ['libc-bin', 'glibc-common', 'musl-utils', 'glibc', 'glibc']],
  ['sudo', all('sudo')],
  ['stty', all('coreutils')],
  ['chmod', all('coreutils')],
  ['chown', all('coreutils')],
  ...['iptables', 'iptables-restore', 'ip6tables-restore', 'iptables-save', 'ip6tables-save'].map(
    (name) => [name, all('iptables')] as const,
  ),
  ['ipset', all('ipset')],
])

/** What `run` and `setup` need on Linux beside the firewall's; the others are for options. */
export const requiredTools = [
  'bwrap',
  'ip',
  'nsenter',
  'unshare',
  'prlimit',
  'setpriv',
  'perl',
  'useradd',
  'userdel',
] as const

/** Packages that hold these tools, each once; a tool that is not in the table goes by its own name. */
export function packagesFor(distro: Distro, tools: readonly string[]): readonly string[] {
  const column = distro.manager === undefined ? 0 : managers.indexOf(distro.manager)
  return [...new Set(tools.map((tool) => packageOf.get(tool)?.[column] ?? tool))]
}

/** The command that installs them; `undefined` where the distribution is not known. */
export function installArgv(
  distro: Distro,
  tools: readonly string[],
): readonly [string, ...string[]] | undefined {
  const packages = packagesFor(distro, tools)
  switch (distro.manager) {
    case 'apt':
      return ['apt-get', 'install', '--yes', '--no-install-recommends', ...packages]
    case 'dnf':
      return ['dnf', 'install', '--assumeyes', ...packages]
    case 'apk':
      return ['apk', 'add', ...packages]
    case 'pacman':
      return ['pacman', '--sync', '--needed', '--noconfirm', ...packages]
    case 'zypper':
      return ['zypper', '--non-interactive', 'install', ...packages]
    case undefined:
      return undefined
  }
}

/** For a person to type; package names hold nothing that a shell would read. */
export function installLine(distro: Distro, tools: readonly string[]): string {
  const argv = installArgv(distro, tools)
  return argv === undefined
    ? `install these with your package manager: ${packagesFor(distro, tools).join(' ')}`
    : `sudo ${argv.join(' ')}`
}
