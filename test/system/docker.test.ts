/**
 * agentjail in containers that docker itself makes, by the words of `examples/container`, and beside docker on one host.
 * The image has the host's files in place of what the Dockerfile installs. Judges: the capture on the wire, the kernel's
 * status of the command.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { evil } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'
import { dockerfileWords, makeContainer } from './crun.js'
import { startDocker, type Docker } from './docker.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 240_000
t.setTimeout(2 * timeout)

interface Service {
  readonly cap_add: readonly string[]
  readonly cap_drop?: readonly string[]
  readonly security_opt?: readonly string[]
  readonly tmpfs?: readonly string[]
  readonly entrypoint?: readonly string[]
}
const { services } = parse(readFileSync(join(root, 'examples/container/compose.yaml'), 'utf8')) as {
  readonly services: Readonly<Record<'jailed' | 'walled', Service>>
}

/** Options of `docker run` for what compose files call so (docs.docker.com, "Services top-level elements"). */
const optionsOf = ({ cap_add, cap_drop, security_opt, tmpfs }: Service): string[] => [
  ...(cap_drop ?? []).map((name) => `--cap-drop=${name}`),
  ...cap_add.map((name) => `--cap-add=${name}`),
  ...(security_opt ?? []).map((word) => `--security-opt=${word}`),
  ...(tmpfs ?? []).map((place) => `--tmpfs=${place}`),
]

const policyPath = '/etc/agentjail/policies/policy.yaml'
const isEvil = ({
  dst,
  dnsName,
}: {
  readonly dst: string
  readonly dnsName?: string | undefined
}) => dst === evil.v4 || dst === evil.v6 || dnsName?.endsWith('evil.example') === true

const prepare = async (t: Test, lab: Lab, docker: Docker) => {
  const box = await makeContainer(lab)
  // The image has no package acl.
  await lab.run(['rm', '-f', '/usr/bin/setfacl', '/usr/bin/getfacl'])
  lab.writeFile(
    `${box.files}${policyPath}`,
    'version: 1\nname: jailed\nisolation: basic\nnetwork: { allow: [plain.example], loopback: { listen: [8000] } }\n',
  )
  const made = await lab.run(['sh', '-c', `tar -C ${box.files} -c . | docker import - boxed`])
  t.equal(made.code, 0, made.stderr)
  // As compose does: a network of the project's own, in which docker's DNS server is 127.0.0.11.
  const network = await docker.run(['network', 'create', 'project'])
  t.equal(network.code, 0, network.stderr)
  const volumes = [
    ...box.binds.map((path) => `--volume=${path}:${path}:ro`),
    '--volume=/srv/work:/work',
  ]
  return (service: Service, words: readonly string[], name = 'box') => {
    const [program = '', ...first] =
      service.entrypoint ?? dockerfileWords('examples/container/Dockerfile', 'ENTRYPOINT')
    return [
      ...['run', '--rm', '--name', name, '--network=project', '--workdir=/work', ...volumes],
      ...[...optionsOf(service), `--entrypoint=${program}`, 'boxed', ...first, ...words],
    ]
  }
}

t.test('in a container of docker’s', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const docker = await startDocker(lab)
  const argv = await prepare(t, lab, docker)
  const script = [
    'cat /proc/self/status /etc/resolv.conf; echo made > file',
    'curl -sS https://plain.example/in',
    `curl -sSk -m 5 https://evil.example/; curl -sSk -m 5 https://${evil.v4}/`,
    `dig +time=1 +tries=1 @127.0.0.11 evil.example; dig +time=1 +tries=1 @8.8.8.8 evil.example`,
    'exit 7',
  ].join('\n')
  for (const name of ['jailed', 'walled'] as const) {
    await t.test(name, async (t) => {
      await lab.capture.clear()
      const result = await docker.run(argv(services[name], ['sh', '-c', script]), {
        timeout: 60_000,
      })
      t.equal(result.code, 7, result.stderr)
      t.match(result.stdout, /^CapBnd:\s0+$/m)
      t.match(result.stdout, /^CapEff:\s0+$/m)
      t.match(result.stdout, /^NoNewPrivs:\s1$/m)
      const filters = name === 'jailed' ? 2 : 1
      t.match(
        result.stdout,
        new RegExp(`^Seccomp_filters:\\s${filters}$`, 'm'),
        'docker’s, the jail’s',
      )
      t.match(result.stdout, /path \/in/, result.stderr)
      t.equal(
        result.stdout.split('NXDOMAIN').length,
        3,
        'refused by name, whichever server is asked',
      )
      t.equal(lab.readFile('/srv/work/file'), 'made\n')
      t.same(await lab.capture.packets(isEvil), [], 'nothing of the rest on the wire')
    })
  }
  await t.test('what docker itself lets through', async (t) => {
    // The same container without a jail: the judge sees what there is to see.
    await lab.capture.clear()
    const open = { ...services.jailed, entrypoint: ['sh', '-c'] }
    await docker.run(argv(open, [script]), { timeout: 60_000 })
    t.not((await lab.capture.packets(isEvil)).length, 0)
  })
  await t.test('further ports, where the container has no IPv6', async (t) => {
    const inside = (name: string, script: string) =>
      docker.run(['exec', name, 'sh', '-c', script], { timeout: 30_000 })
    const late =
      'while ! test -e /work/go; do sleep 0.1; done; curl -sS http://plain.example:8088/late'
    const jailed = docker.spawn(argv(services.jailed, ['sh', '-c', `echo up; ${late}`], 'late'))
    await jailed.until(/^up/m, 30_000)
    const port =
      'version: 1\\nname: jailed\\nisolation: basic\\nnetwork: { allow: [plain.example:8088] }'
    const reloaded = await inside(
      'late',
      `printf '${port}\\n' > ${policyPath}; agentjail reload jailed`,
    )
    t.equal(reloaded.code, 0, reloaded.stderr)
    lab.writeFile('/srv/work/go', '')
    t.match(await jailed.ended, { code: 0, stdout: /path \/late/ }, 'a reload opens it')
    const serve = ['python3', '-u', '-m', 'http.server', '8000']
    const walled = docker.spawn(argv(services.walled, serve, 'served'))
    await walled.until(/Serving HTTP/, 30_000)
    const ask = 'curl -sS http://127.0.0.1:8000/'
    t.match(
      (await inside('served', ask)).stdout,
      /href="go"/,
      'and one of the container’s leads in',
    )
    await docker.run(['kill', 'served'])
    await walled.ended
  })
  await t.test('docker stop ends the jail', async (t) => {
    const wait = ['sh', '-c', 'trap "echo told; exit 3" TERM; echo up; while :; do sleep 0.1; done']
    const container = docker.spawn(argv(services.jailed, wait, 'stopped'))
    await container.until(/^up/m, 30_000)
    t.equal((await docker.run(['stop', '--time', '20', 'stopped'])).code, 0)
    const { stdout, code } = await container.ended
    t.match(stdout, 'told', 'the command is told')
    t.equal(code, 3, 'and its exit code is the container’s')
  })
})

t.test('beside docker', { timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  const docker = await startDocker(lab)
  lab.writeFile('/srv/p.yaml', 'version: 1\nisolation: uid\nnetwork: { allow: [plain.example] }\n')
  const url = 'https://plain.example/beside'
  const ask = `while read -r n; do echo "good $n $(curl -sS -m 20 ${url})"; curl -sSk -m 5 https://${evil.v4}/ && echo open; echo "end $n"; done`
  const jail = lab.spawnAgentjail(
    ['run', '-n', 'beside', '-p', '/srv/p.yaml', '--', 'sh', '-c', ask],
    {
      cwd: '/home/alice',
      timeout,
    },
  )
  const round = async (n: number, what: string) => {
    await lab.capture.clear()
    jail.write(`${n}\n`)
    const text = await jail.until(new RegExp(`^end ${n}$`, 'm'), 60_000)
    t.match(text, new RegExp(`^good ${n} .*path /beside`, 'm'), what)
    t.same(await lab.capture.packets((p) => p.dst === evil.v4), [], what)
  }
  await round(1, 'before')
  await docker.restart()
  await round(2, 'docker was started again')
  const network = await docker.run(['network', 'create', 'new'])
  t.equal(network.code, 0, network.stderr)
  await round(3, 'docker made rules for a network')
  await docker.run(['network', 'rm', 'new'])
  await docker.end()
  await round(4, 'docker is gone')
  const before = await lab.rules()
  t.match(before, /DOCKER/, 'its rules stay')
  jail.end()
  const { code, stderr } = await jail.ended
  t.equal(code, 0, stderr)
  t.notMatch(stderr, /restored|put back|changed/, 'its changes are none of the jail’s')
})
