/**
 * The workflow of docs/ci.md: its lines in their order, as a runner's user. What differs from a hosted runner: the
 * package leads to the build here, and the project has no dependency to fetch.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { createLab } from '../lab/lab.js'
import { agentjailPath, root } from '../lab/paths.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(timeout)

t.test('docs/ci.md', { timeout }, async (t) => {
  const page = readFileSync(join(root, 'docs/ci.md'), 'utf8')
  const [, workflow = ''] = /```yaml\n([\s\S]*?)```/.exec(page) ?? []
  const [, strict = ''] = /\n {2}(test -z .*)\n/.exec(page) ?? []
  const { jobs } = parse(workflow) as { jobs: { build: { steps: { run?: string }[] } } }
  const lines = jobs.build.steps.flatMap(({ run }) => run ?? [])
  t.ok(lines.length >= 5, lines.join('\n'))

  const lab = await createLab()
  t.teardown(() => lab.close())
  const cwd = '/home/alice/project'
  await lab.run(['mkdir', '-p', `${cwd}/.prefix`], { user: 'alice' })
  // The lab shows the build read-only, and npm wants to change modes: a package that leads to it.
  lab.writeFile(
    '/srv/package/package.json',
    JSON.stringify({ name: 'agentjail', version: '0.0.0', bin: 'run.sh' }),
  )
  lab.writeFile('/srv/package/run.sh', `#!/bin/sh\nexec node '${agentjailPath}' "$@"\n`, 0o755)
  lab.writeFile(
    `${cwd}/package.json`,
    JSON.stringify({
      ...{ name: 'project', version: '1.0.0' },
      scripts: { test: 'id -un && ! curl -sS https://evil.example/' },
    }),
  )
  const lock = { name: 'project', version: '1.0.0', lockfileVersion: 3, packages: {} }
  lab.writeFile(`${cwd}/package-lock.json`, JSON.stringify(lock))
  lab.writeFile(`${cwd}/agentjail-ci.yaml`, 'version: 1\nextends: [npm]\n')
  await lab.run(['chown', '-R', 'alice:', cwd, '/srv/package'])
  const step = (line: string) =>
    lab.run(['bash', '-e', '-c', line], {
      user: 'alice',
      cwd,
      timeout: 60_000,
      env: {
        PATH: `${cwd}/.prefix/bin:/usr/local/bin:/usr/bin:/bin`,
        npm_config_prefix: `${cwd}/.prefix`,
        npm_config_offline: 'true',
      },
    })
  for (const line of lines) {
    const fixed = line.replace(/--global \S+/, '--global /srv/package')
    const { code, stdout, stderr } = await step(fixed)
    t.equal(code, 0, `${line}: ${stdout}${stderr}`)
    if (line.includes('npm test')) t.match(stdout, /^aj-build$/m, 'the tests ran in the jail')
  }
  const log = lab.readFile(`${cwd}/agentjail.jsonl`)
  t.match(log, /"reason":"name-not-granted".*evil\.example|evil\.example.*"name-not-granted"/)
  t.match(await step(strict), { code: 1 }, 'the line that fails on any denial')
})
