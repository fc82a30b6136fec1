/** Where keys come from, what the command sees instead, what logs show. */
import { chmodSync, chownSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { credentialEnvironment } from '../lib/credentials/environment.js'
import { placeholderFor } from '../lib/credentials/placeholder.js'
import { type CredentialFacts, resolveCredentials } from '../lib/credentials/resolve.js'
import { JailError } from '../lib/errors.js'
import { createScrub, scrubError } from '../lib/credentials/scrub.js'
import type { Credential, CredentialSource } from '../lib/policy/types.js'

const uid = process.getuid?.() ?? 0
const gid = process.getgid?.() ?? 0

const facts = (more: Partial<CredentialFacts> = {}): CredentialFacts => ({
  callerEnv: { THE_KEY: 'sk-0123456789abcdef', BLANK: '' },
  caller: { uid, gid, home: '/' },
  isRootPolicy: false,
  ...more,
})

function credential(from: CredentialSource, more: Partial<Credential> = {}): Credential {
  return {
    id: 'k',
    from,
    mode: 'pin',
    in: { kind: 'header', name: 'authorization' },
    format: 'Bearer {}',
    optional: false,
    origin: { file: 'x', line: 1, column: 1 },
    ...more,
  }
}

const valueOf = async (from: CredentialSource, more?: Partial<CredentialFacts>) =>
  (await resolveCredentials([credential(from)], facts(more)))[0]?.value

t.test('sources', async (t) => {
  const dir = t.testdir({ key: 'sk-from-a-file-1\n', fifo: {} })
  const file = path.join(dir, 'key')
  chmodSync(file, 0o600)
  t.equal(await valueOf({ kind: 'env', name: 'THE_KEY' }), 'sk-0123456789abcdef')
  t.equal(await valueOf({ kind: 'env', name: 'BLANK' }), undefined)
  t.equal(await valueOf({ kind: 'env', name: 'ABSENT' }), undefined)
  t.equal(await valueOf({ kind: 'file', path: file }), 'sk-from-a-file-1')
  t.equal(await valueOf({ kind: 'file', path: path.join(dir, 'absent') }), undefined)
  t.equal(
    await valueOf({ kind: 'systemd', name: 'key' }, { callerEnv: { CREDENTIALS_DIRECTORY: dir } }),
    'sk-from-a-file-1',
  )
  t.equal(await valueOf({ kind: 'systemd', name: 'key' }), undefined)
  t.equal(
    await valueOf({ kind: 'exec', argv: ['printf', '%s', 'sk-printed;id>&2'] }),
    'sk-printed;id>&2',
    'no shell reads the words',
  )
  t.equal(
    await valueOf(
      { kind: 'exec', argv: ['/usr/bin/env'] },
      { callerEnv: { SECRET: 'x' }, caller: { uid, gid, home: '/nowhere' } },
    ).catch((error: unknown) => String(error)),
    'JailError: the credential k is no usable key',
    'several lines are no key',
  )
  for (const length of [7, 8, 4096, 4097]) {
    const argv = ['perl', '-e', `print "k" x ${length}`]
    const value = await valueOf({ kind: 'exec', argv }).catch((error: unknown) => String(error))
    const isKey = length >= 8 && length <= 4096
    t.equal(value, isKey ? 'k'.repeat(length) : 'JailError: the credential k is no usable key')
  }
})

t.test('a file that others can read, or of somebody else, is refused', async (t) => {
  const dir = t.testdir({ key: 'sk-from-a-file-1' })
  const file = path.join(dir, 'key')
  const source: CredentialSource = { kind: 'file', path: file }
  for (const mode of [0o604, 0o640, 0o602, 0o610]) {
    chmodSync(file, mode)
    await t.rejects(valueOf(source), { code: 'POLICY_UNSAFE', hint: /chmod 600/ })
  }
  chmodSync(file, 0o600)
  const other: Partial<CredentialFacts> = { caller: { uid: uid + 1, gid, home: '/' } }
  await t.rejects(valueOf(source, other), { code: 'POLICY_UNSAFE', message: /belongs to uid/ })
  if (uid === 0) {
    t.equal(await valueOf(source, { ...other, isRootPolicy: true }), 'sk-from-a-file-1')
    chownSync(file, 12345, 12345)
    await t.rejects(valueOf(source, { isRootPolicy: true }), { message: /belongs to uid 12345/ })
    chownSync(file, uid, gid)
  }
  // The target's descriptor is judged, not the link.
  symlinkSync(file, path.join(dir, 'link'))
  chmodSync(file, 0o644)
  await t.rejects(valueOf({ kind: 'file', path: path.join(dir, 'link') }), {
    code: 'POLICY_UNSAFE',
  })
  await t.rejects(valueOf({ kind: 'file', path: dir }), { message: /not a regular file/ })
  await t.rejects(valueOf({ kind: 'file', path: '/dev/zero' }), { message: /not a regular file/ })
})

t.test('a failing command never shows its output', async (t) => {
  const dir = t.testdir({})
  const file = path.join(dir, 'helper')
  writeFileSync(file, '#!/bin/sh\necho sk-leaked-key-1\necho sk-leaked-key-2 >&2\nexit 3\n')
  chmodSync(file, 0o755)
  const error = await valueOf({ kind: 'exec', argv: [file] }).then(
    () => undefined,
    (thrown: unknown) => thrown as Error,
  )
  t.match(error, { code: 'POLICY_INVALID', message: /failed \(3\)/ })
  t.notMatch(JSON.stringify([error?.message, error?.stack, error?.cause]), /leaked/)
  await t.rejects(valueOf({ kind: 'exec', argv: ['no-such-tool'] }), { code: 'TOOL_MISSING' })
  if (process.platform !== 'darwin') {
    await t.rejects(valueOf({ kind: 'keychain', item: 'x' }), { code: 'PLATFORM' })
  }
})

t.test('a command runs as the caller', { skip: uid !== 0 && 'only root drops' }, async (t) => {
  const value = await valueOf(
    { kind: 'exec', argv: ['sh', '-c', 'echo "uid-$(id -u)-groups-$(id -G | tr " " ,)"'] },
    { caller: { uid: 65534, gid: 65534, home: '/' } },
  )
  t.equal(value, 'uid-65534-groups-65534')
})

t.test('placeholders keep the shape and nothing else', async (t) => {
  for (const [value, shape] of [
    ['sk-proj-AbC123xyz789AbC123xyz', /^sk-proj-[A-Z][a-z][A-Z]\d{3}/],
    ['sk-ant-api03-abcdefghijklm', /^sk-ant-api03-[a-z]{13}$/],
    ['xoxb-123456-abcdef', /^xoxb-\d{6}-[a-z]{6}$/],
    ['123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw', /^\d{9}:[A-Z]{3}/],
    ['ghp_0123456789abcdef', /^ghp_\d{10}[a-z]{6}$/],
    ['0a1b2c3d-0000-1111-2222-333344445555', /^\d[a-z]\d[a-z]/],
  ] as const) {
    const placeholder = placeholderFor(value)
    t.equal(placeholder.length, value.length)
    t.match(placeholder, shape)
    t.not(placeholder, value)
    t.not(placeholder, placeholderFor(value), 'random')
  }
  const twice = await resolveCredentials(
    ['api', 'git'].map((id) =>
      credential({ kind: 'env', name: 'THE_KEY' }, { id, mode: 'inject', env: 'TOKEN' }),
    ),
    facts(),
  )
  t.equal(twice[0]?.placeholder, twice[1]?.placeholder, 'one variable, one placeholder')
})

t.test('the environment shows a placeholder, never an injected key', async (t) => {
  const wanted = [
    credential({ kind: 'env', name: 'THE_KEY' }, { id: 'a', mode: 'inject', env: 'A' }),
    credential({ kind: 'env', name: 'THE_KEY' }, { id: 'b', env: 'B' }),
    credential({ kind: 'env', name: 'ABSENT' }, { id: 'c', env: 'C' }),
  ]
  const env = credentialEnvironment(wanted, await resolveCredentials(wanted, facts()))
  t.match(env.get('A'), /^sk-\d{10}[a-z]{6}$/)
  t.not(env.get('A'), 'sk-0123456789abcdef')
  t.equal(env.get('B'), 'sk-0123456789abcdef')
  t.equal(env.has('C'), false)
})

t.test('scrubbing takes every usual form out', (t) => {
  const value = 'sk-a/b+c"d==e'
  const scrub = createScrub([{ id: 'k', value }])
  for (const form of [
    value,
    encodeURIComponent(value),
    JSON.stringify({ value }),
    Buffer.from(value).toString('base64'),
    Buffer.from(value).toString('hex'),
    value.toUpperCase(),
    // Behind one, two and three bytes of something else.
    ...['u', 'us', 'usr'].map((user) => Buffer.from(`${user}${value}:`).toString('base64url')),
  ]) {
    const out = scrub(`before ${form} after`)
    t.notMatch(out, form.slice(6, 12))
    t.match(out, /before .*\[k\].* after/)
  }
  t.equal(scrub(`Host ${value.slice(0, 10)}`), 'Host [k]', 'cut off at the end')
  t.equal(scrub(`Host ${value.slice(0, 10)}…`), 'Host [k]', 'and said to be')
  t.equal(scrub('sk-a is a beginning of many keys'), 'sk-a is a beginning of many keys')
  const error = scrubError(new JailError('GATE', `no ${value}`, { hint: `use ${value}` }), scrub)
  t.match(error, { code: 'GATE', message: 'no [k]', hint: 'use [k]', exit: 125 })
  t.notMatch((error as Error).stack, value)
  t.end()
})
