/**
 * `agentjail run --container IMAGE` in the lab, with podman and docker as the engine and an image made here: the image's files are the
 * command's, the jail is the same. Judges: the capture, the kernel's status of the command, the exit code.
 */
import { spawnSync } from 'node:child_process'
import {
  copyFileSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { parseConfig, parseLdd } from '../../lib/container/image.js'
import { evil } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { startDocker } from './docker.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(3 * timeout)

/** A small system: a shell, cat and curl with their libraries, as an archive. */
const makeArchive = (dir: string): string => {
  const root = join(dir, 'root')
  const place = (path: string) => {
    mkdirSync(dirname(root + path), { recursive: true })
    copyFileSync(realpathSync(path), root + path)
  }
  for (const program of ['sh', 'cat', 'curl', 'id']) {
    const { stdout } = spawnSync('/usr/bin/ldd', [`/usr/bin/${program}`], { encoding: 'utf8' })
    place(`/usr/bin/${program}`)
    for (const [path] of stdout.matchAll(/\/\S+(?= \()/g)) place(path)
  }
  mkdirSync(`${root}/etc`)
  writeFileSync(`${root}/etc/os-release`, 'NAME=tiny\n')
  const archive = join(dir, 'image.tar')
  spawnSync('/usr/bin/tar', ['-c', '-f', archive, '-C', root, '.'])
  return archive
}

/** What an engine calls an image of that name, and how it is asked. */
interface Engine {
  readonly image: string
  run(words: readonly string[]): ReturnType<Lab['run']>
}

const podman = (lab: Lab): Promise<Engine> => {
  lab.writeFile(
    '/etc/containers/storage.conf',
    '[storage]\ndriver = "vfs"\nrunroot = "/srv/r"\ngraphroot = "/srv/g"\n',
  )
  const run: Engine['run'] = (words) => lab.run(['podman', ...words], { timeout: 60_000 })
  return Promise.resolve({ image: 'localhost/tiny:latest', run })
}

const docker = async (lab: Lab): Promise<Engine> => {
  const { run } = await startDocker(lab)
  // The first that is found is asked.
  await lab.run(['rm', '-f', '/usr/bin/podman'])
  return { image: 'tiny:latest', run }
}

for (const [name, start] of [
  ['podman', podman],
  ['docker', docker],
] as const)
  t.test(`a command in an image of ${name}’s`, { timeout }, async (t) => {
    const dir = mkdtempSync('/tmp/agentjail-image-')
    t.teardown(() => rmSync(dir, { recursive: true }))
    const lab = await createLab()
    t.teardown(() => lab.close())
    const host = `/proc/${lab.sides.host}/root`
    copyFileSync(makeArchive(dir), `${host}/srv/image.tar`)
    const engine = await start(lab)
    const change = [
      '--change',
      'ENV GREETING=from-the-image',
      '--change',
      'ENTRYPOINT ["sh", "-c"]',
    ]
    const made = await engine.run(['import', ...change, '/srv/image.tar', 'tiny:latest'])
    t.equal(made.code, 0, made.stderr)
    lab.writeFile(
      '/etc/agentjail/policies/p.yaml',
      'version: 1\nnetwork: { allow: [plain.example] }\n',
    )
    lab.writeFile('/srv/work/mine', 'of the workspace\n')
    const run = (isolation: string, script: string, image = engine.image) =>
      lab.agentjail(
        [
          ...['run', '-q', '-n', 'boxed', '-p', '/etc/agentjail/policies/p.yaml'],
          ...['--isolation', isolation, '--container', image, '--', script],
        ],
        { cwd: '/srv/work', timeout: 60_000 },
      )
    for (const isolation of ['namespace', 'uid']) {
      await lab.capture.clear()
      const script = [
        'cat /etc/os-release mine /proc/self/status; id -un; echo $GREETING $HOME',
        'curl -sSk https://plain.example/in',
        `curl -sSk -m 5 https://evil.example/; curl -sSk -m 5 https://${evil.v4}/`,
        'git --version; echo new > made; echo no > /etc/mine; exit 7',
      ].join('\n')
      const result = await run(isolation, script)
      t.equal(result.code, 7, `${isolation}: ${result.stderr}`)
      t.match(
        result.stdout,
        /^NAME=tiny\nof the workspace\n/,
        "the image's files, and the workspace",
      )
      t.match(result.stdout, /^aj-boxed\nfrom-the-image \/var\/lib\/agentjail\/home\/boxed$/m)
      t.match(result.stdout, /path \/in/, 'what is granted')
      t.match(result.stdout, /^CapBnd:\s0+$/m)
      t.match(result.stdout, /^CapEff:\s0+$/m)
      t.match(result.stdout, /^NoNewPrivs:\s1$/m)
      t.match(result.stdout, /^Seccomp:\s2$/m)
      t.match(result.stderr, /git: not found/, "nothing of the host's")
      t.match(result.stderr, /cannot create \/etc\/mine/, 'the image is read-only')
      const toEvil = await lab.capture.packets((p) => p.dst === evil.v4 || p.dst === evil.v6)
      t.same(toEvil, [], 'nothing to the attacker')
      t.equal(lab.readFile('/srv/work/made'), 'new\n')
      t.equal(lstatSync(`${host}/srv/work/made`).uid, 0, "the caller's own file")
      rmSync(`${host}/srv/work/made`)
    }
    await engine.run(['rmi', '--force', 'tiny:latest'])
    const missing = await run('namespace', 'true')
    t.equal(missing.code, 125, 'an image that the engine does not have')
    t.match(missing.stderr, /^agentjail: .*(pull|image)/m)
    t.match(await run('namespace', 'true', '--rm'), { code: 2 })
    t.equal((await lab.agentjail(['uninstall', '--purge'])).code, 0)
    t.throws(() => lstatSync(`${host}/var/lib/agentjail/images`), { code: 'ENOENT' })
  })

t.test('what engines and ldd print', (t) => {
  const lines = '\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n'
  t.strictSame(parseLdd(`${lines}\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n`), {
    loader: '/lib64/ld-linux-x86-64.so.2',
    libraries: ['/lib/libc.so.6'],
  })
  t.throws(() => parseLdd('not a dynamic executable\n'), { code: 'LAUNCH' })
  t.strictSame(parseConfig({ Env: ['A=b=c', 'bad', '=x', 4], Entrypoint: null }), {
    entrypoint: [],
    env: new Map([['A', 'b=c']]),
  })
  t.end()
})
