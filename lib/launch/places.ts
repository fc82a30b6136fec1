/**
 * Which directories of a host are the system's, which may be a workspace, which belong to a tool.
 * Invariant: pure; a place that is not known to be the system's is not shown at all.
 */

/** Shown read-only as they are; /var, /run, /tmp, /home, /root, /srv and all others are not. */
export const systemTops: readonly string[] = [
  ...['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32', '/etc', '/opt'],
  ...['/nix', '/gnu'],
]

/** `path` is `top` or below it. */
export function isUnder(path: string, top: string): boolean {
  return path === top || path.startsWith(top === '/' ? '/' : `${top}/`)
}

const exact = ['/', '/home', '/srv', '/mnt', '/media', '/opt', '/var', '/usr']
const whole = ['/usr', '/etc', '/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32', '/boot']
const kernel = ['/dev', '/proc', '/sys', '/run', '/nix', '/gnu', '/snap', '/lost+found']
const exceptions = ['/usr/src', '/usr/local/src', '/run/media']
const variable = ['/var/log', '/var/lib', '/var/spool', '/var/cache', '/var/run', '/var/lock']

const system = 'is a directory of the system: the command cannot write there'

/** Home directories of root and of people. */
export type Homes = Pick<ReadonlySet<string>, 'has'>

/**
 * Why a directory is no workspace; undefined: it may be one.
 * @param homes home directories: they hold keys and start-up files, so only directories below them may be.
 */
export function workspaceRefusal(path: string, homes: Homes): string | undefined {
  if (path === '/tmp' || path === '/var/tmp')
    return 'is private to each jail: what lies there outside is not seen'
  if (homes.has(path) && path !== '/')
    return 'is a home directory, which is hidden: start in a directory below it'
  if (exact.includes(path)) return system
  if (exceptions.some((top) => path !== top && isUnder(path, top))) return undefined
  const inSystem = [...whole, ...kernel, ...variable].some((top) => isUnder(path, top))
  return inSystem ? system : undefined
}

/**
 * What to show so that a program outside the system's directories runs: the tree that its `bin` lies
 * in (~/.nvm/versions/node/v20.1.0), else its directory; never a home directory or ~/.local whole.
 */
export function toolPrefix(file: string, homes: Homes): string {
  const dir = file.slice(0, file.lastIndexOf('/')) || '/'
  if (homes.has(dir) || dir === '/') return file
  if (!dir.endsWith('/bin')) return dir
  const prefix = dir.slice(0, -'/bin'.length)
  const tooWide = prefix === '' || homes.has(prefix) || prefix.endsWith('/.local')
  return tooWide || prefix.split('/').length < 3 ? dir : prefix
}

/** Debian and Alpine, Fedora and its kin, openSUSE, OpenSSL's default on Alpine. */
export const caPaths: readonly string[] = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/ca-bundle.pem',
  '/var/lib/ca-certificates/ca-bundle.pem',
  '/etc/ssl/cert.pem',
]
