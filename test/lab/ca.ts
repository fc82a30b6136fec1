/**
 * The lab's certificate authority, made anew for each lab, and leaf certificates made when first asked for.
 * Invariant: no key of it is ever written to the machine's disk: `directory` is in the lab's own tmpfs.
 */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, type SecureContext } from 'node:tls'
import { promisify } from 'node:util'

const run = promisify(execFile)
const openssl = (args: readonly string[]) => run('/usr/bin/openssl', args, { timeout: 20_000 })

const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

/** Makes `ca.pem` and `ca.key` in the directory. */
export const makeCa = (directory: string): Promise<unknown> =>
  openssl([
    ...['req', '-x509', ...key, '-days', '30', '-subj', '/CN=agentjail lab CA'],
    ...['-addext', 'basicConstraints=critical,CA:TRUE'],
    ...['-addext', 'keyUsage=critical,keyCertSign,cRLSign'],
    ...['-keyout', join(directory, 'ca.key'), '-out', join(directory, 'ca.pem')],
  ])

/** The name under which OpenSSL looks for a CA in a directory, without the `.0`. */
export const subjectHash = async (directory: string): Promise<string> => {
  const args = ['x509', '-noout', '-subject_hash', '-in', join(directory, 'ca.pem')]
  return (await openssl(args)).stdout.trim()
}

/** A function that gives the certificate of a name (or address), the same one each time. */
export const leafMaker = (directory: string) => {
  const made = new Map<string, Promise<SecureContext>>()
  return (name: string): Promise<SecureContext> => {
    const known = made.get(name)
    if (known !== undefined) return known
    const context = makeLeaf(directory, name, `leaf${made.size}`)
    made.set(name, context)
    return context
  }
}

const makeLeaf = async (directory: string, name: string, file: string): Promise<SecureContext> => {
  if (!/^[a-z0-9.:-]{1,250}$/.test(name)) throw new Error(`no certificate for ${name}`)
  const [keyPath, certPath] = [join(directory, `${file}.key`), join(directory, `${file}.pem`)]
  const isAddress = /^[0-9.]+$|:/.test(name)
  await openssl([
    ...['req', '-x509', ...key, '-days', '20', '-subj', `/O=agentjail lab`],
    ...['-CA', join(directory, 'ca.pem'), '-CAkey', join(directory, 'ca.key')],
    ...['-addext', `subjectAltName=${isAddress ? 'IP' : 'DNS'}:${name}`],
    ...['-addext', 'basicConstraints=critical,CA:FALSE'],
    ...['-addext', 'extendedKeyUsage=serverAuth'],
    ...['-keyout', keyPath, '-out', certPath],
  ])
  const [cert, privateKey, ca] = await Promise.all([
    readFile(certPath, 'utf8'),
    readFile(keyPath, 'utf8'),
    readFile(join(directory, 'ca.pem'), 'utf8'),
  ])
  return createSecureContext({ cert: cert + ca, key: privateKey })
}
