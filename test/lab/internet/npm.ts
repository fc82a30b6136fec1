/**
 * An npm registry: a package of its own, and whatever lies in this repository's node_modules, packed when it is asked for,
 * so that a real package is installed with all it needs.
 * Source of the fields: https://github.com/npm/registry/blob/main/docs/REGISTRY-API.md
 */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { modules } from '../paths.js'
import { json, type Handler } from './http.js'

/** One file of a ustar archive (POSIX.1-2017, pax "ustar Interchange Format"). */
const tarFile = (name: string, content: Buffer): Buffer => {
  const header = Buffer.alloc(512)
  // Longer names: what comes before a slash goes to the prefix.
  const cut = name.length <= 100 ? 0 : name.indexOf('/', name.length - 101) + 1
  header.write(name.slice(cut), 0)
  header.write(name.slice(0, Math.max(0, cut - 1)), 345)
  header.write('0000644\0', 100)
  header.write('0000000\0', 108)
  header.write('0000000\0', 116)
  header.write(content.length.toString(8).padStart(11, '0') + '\0', 124)
  header.write('00000000000\0', 136)
  header.write('        ', 148)
  header.write('0', 156)
  header.write('ustar\x0000', 257)
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(sum.toString(8).padStart(6, '0') + '\0 ', 148)
  const padding = Buffer.alloc((512 - (content.length % 512)) % 512)
  return Buffer.concat([header, content, padding])
}

interface Package {
  readonly manifest: Readonly<Record<string, unknown>>
  readonly tarball: Buffer
}

const pack = (
  manifest: Readonly<Record<string, unknown>>,
  files: readonly (readonly [path: string, content: Buffer])[],
): Package => {
  const parts = files.map(([path, content]) => tarFile(`package/${path}`, content))
  return { manifest, tarball: gzipSync(Buffer.concat([...parts, Buffer.alloc(1024)])) }
}

const own = { name: 'lab-package', version: '1.0.0', main: 'index.js', license: 'MIT' }
const packages = new Map<string, readonly Package[]>([
  [
    own.name,
    [
      pack(own, [
        ['package.json', Buffer.from(JSON.stringify(own))],
        ['index.js', Buffer.from("module.exports = 'from the lab'\n")],
      ]),
    ],
  ],
])

/** Every version of it that lies in node_modules: at the top, or within a package that needs another one. */
const find = (name: string): readonly Package[] => {
  const known = packages.get(name)
  if (known !== undefined) return known
  if (!/^[a-z][a-z0-9.-]*$/.test(name)) return []
  const dirs = [
    modules,
    ...readdirSync(modules).map((other) => join(modules, other, 'node_modules')),
  ]
    .map((dir) => join(dir, name))
    .filter((dir) => existsSync(join(dir, 'package.json')))
  const made = dirs.map((dir) => {
    const files = readdirSync(dir, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && !entry.parentPath.startsWith(join(dir, 'node_modules')))
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path.slice(dir.length + 1), readFileSync(path)] as const)
    const text = readFileSync(join(dir, 'package.json'), 'utf8')
    return pack(JSON.parse(text) as Record<string, unknown>, files)
  })
  packages.set(name, made)
  return made
}

export const npm: Handler = (exchange) => {
  const { request, response, url } = exchange
  const [, name = '', file] = /^\/([^/]+)(?:\/-\/([^/]+)\.tgz)?$/.exec(url.pathname) ?? []
  const found = find(name)
  const versionOf = ({ manifest }: Package): string => String(manifest['version'])
  if (file !== undefined) {
    const one = found.find((each) => file === `${name}-${versionOf(each)}`)
    if (one === undefined) return json(exchange, { error: 'Not found' }, 404)
    response.writeHead(200, { 'content-type': 'application/octet-stream' })
    return void response.end(one.tarball)
  }
  const [latest] = found
  if (latest === undefined) return json(exchange, { error: 'Not found' }, 404)
  const versions = found.map((each) => {
    const dist = {
      tarball: `https://${request.headers.host}/${name}/-/${name}-${versionOf(each)}.tgz`,
      integrity: `sha512-${createHash('sha512').update(each.tarball).digest('base64')}`,
      shasum: createHash('sha1').update(each.tarball).digest('hex'),
    }
    return [versionOf(each), { ...each.manifest, dist }] as const
  })
  json(exchange, {
    name,
    'dist-tags': { latest: versionOf(latest) },
    versions: Object.fromEntries(versions),
  })
}
