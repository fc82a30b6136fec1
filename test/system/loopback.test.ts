/**
 * The host's loopback, from inside and into a jail: only what `localhost:PORT` and `loopback.listen` name, both isolations.
 */
import t from 'tap'
import { createLab } from '../lab/lab.js'

const policy = `version: 1
name: loop
network:
  allow: ['localhost:9001']
  loopback: { listen: [3000] }
`
const serve = (port: number) => [
  'python3',
  '-u',
  '-m',
  'http.server',
  String(port),
  '--bind',
  '127.0.0.1',
]

await t.test('loopback', async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/etc/agentjail/policies/loop.yaml', policy)
  lab.writeFile('/srv/www/host.txt', 'of the host\n')
  lab.writeFile('/srv/work/jail.txt', 'of the jail\n')
  const servers = [9001, 9002].map((port) =>
    lab.spawn(serve(port), { cwd: '/srv/www', timeout: 120_000 }),
  )
  for (const server of servers) await server.until(/Serving HTTP/)

  for (const isolation of ['namespace', 'uid'] as const) {
    await t.test(isolation, async (t) => {
      const run = (command: readonly string[]) => [
        'run',
        '-p',
        '/etc/agentjail/policies/loop.yaml',
        '--isolation',
        isolation,
        '--',
        ...command,
      ]
      const curl = (url: string) => ['curl', '-sS', '-m', '10', url]

      const granted = await lab.agentjail(run(curl('http://127.0.0.1:9001/host.txt')), {
        cwd: '/srv/work',
      })
      t.equal(granted.stdout, 'of the host\n', granted.stderr)
      const other = await lab.agentjail(run(curl('http://127.0.0.1:9002/host.txt')), {
        cwd: '/srv/work',
      })
      t.equal(other.code, 7, 'a port that is not named is refused')
      t.equal(other.stdout, '')

      const jail = lab.spawnAgentjail(run(serve(3000)), { cwd: '/srv/work', timeout: 60_000 })
      await jail.until(/Serving HTTP/)
      const inward = await lab.run(curl('http://127.0.0.1:3000/jail.txt'))
      t.equal(inward.stdout, 'of the jail\n', inward.stderr)
      const outside = await lab.run(curl('http://192.0.2.2:3000/jail.txt'))
      t.not(outside.code, 0, 'the loopback only, no other address of the host')
      jail.kill('SIGTERM')
      await jail.ended
      const after = await lab.run(curl('http://127.0.0.1:3000/jail.txt'))
      t.equal(after.code, 7, 'closed with the jail')
    })
  }
  for (const server of servers) server.kill('SIGKILL')
})
