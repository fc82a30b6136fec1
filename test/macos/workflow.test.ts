/** The workflow for hosted Macs, which this machine cannot run: read by GitHub's own parser, its scripts by bash. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import t from 'tap'

const root = fileURLToPath(new URL('../../..', import.meta.url))
const text = readFileSync(join(root, '.github/workflows/macos.yml'), 'utf8')

interface Step {
  readonly name?: string
  readonly if?: { readonly expr: string }
  readonly uses?: string
  readonly run?: string
}
interface Read {
  readonly errors: readonly string[]
  readonly jobs: readonly { readonly steps: readonly Step[] }[]
}

/** The parser imports JSON as bundlers do; Node 20 does not. */
async function openParser(dir: string): Promise<(content: string) => Promise<Read>> {
  const outfile = join(dir, 'parser.cjs')
  await build({
    stdin: { contents: "export * from '@actions/workflow-parser'", resolveDir: root },
    ...{ bundle: true, format: 'cjs', platform: 'node', outfile, logLevel: 'silent' },
  })
  const parser = createRequire(import.meta.url)(outfile) as {
    parseWorkflow: (
      file: { name: string; content: string },
      trace: unknown,
    ) => { context: { errors: { getErrors: () => Error[] } }; value: unknown }
    convertWorkflowTemplate: (context: unknown, value: unknown) => Promise<unknown>
    NoOperationTraceWriter: new () => unknown
  }
  return async (content) => {
    const trace = new parser.NoOperationTraceWriter()
    const { context, value } = parser.parseWorkflow({ name: 'macos.yml', content }, trace)
    const errors = context.errors.getErrors().map(String)
    if (errors.length > 0) return { errors, jobs: [] }
    const { jobs } = (await parser.convertWorkflowTemplate(context, value)) as Read
    return { errors: context.errors.getErrors().map(String), jobs: json(jobs) }
  }
}

const json = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T

t.test('the workflow of hosted Macs', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-workflow-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  const read = await openParser(dir)
  for (const [right, wrong, message] of [
    ['timeout-minutes', 'timeout-minuts', /Unexpected value 'timeout-minuts'/],
    ['runs-on', 'run-on', /Required property is missing: runs-on/],
    ['${{ matrix.os }}', '${{ matrix.os', /expression is not closed/],
  ] as const) {
    const { errors } = await read(text.replaceAll(right, wrong))
    t.match(errors.join('\n'), message, `a mistake is seen: ${wrong}`)
  }
  const { errors, jobs } = await read(text)
  t.strictSame(errors, [])
  const steps = jobs.flatMap((job) => job.steps)
  const scripts = steps.flatMap(({ run }) => (run === undefined ? [] : [run]))
  t.ok(scripts.length > 10)
  for (const script of scripts) {
    // The parser has made GitHub's expressions values of their own; none may stand in a script.
    t.type(script, 'string')
    const checked = spawnSync('bash', ['-n'], { input: script, encoding: 'utf8' })
    t.equal(checked.stderr, '', script)
    for (const [, path = ''] of script.matchAll(/(?<=[ /])((?:dist|test)\/[\w./-]+\.(?:c?js|sh))/g))
      t.ok(existsSync(join(root, path)), path)
  }
  const all = scripts.join('\n')
  t.match(all, /pfctl -n .*test\/golden/s)
  for (const file of ['rules', 'flows', 'policies', 'launch']) t.match(all, `macos/${file}.test.js`)
  // A runner is thrown away; a Mac of somebody's own is not.
  const ends = steps.slice(-2)
  t.match(ends, [{ run: /uninstall --purge/ }, { run: /real-state\.sh \| diff/ }])
  for (const { name, if: condition } of ends) t.match(condition?.expr, 'always()', String(name))
})

t.test('what is compared before and after is a script that runs', (t) => {
  const { status, stdout } = spawnSync('bash', [join(root, 'test/macos/real-state.sh')], {
    encoding: 'utf8',
  })
  t.equal(status, 0)
  t.match(stdout, /^# pf\n# accounts\n# launchd\n# files\n(.*\n)*# processes\n(.*\n)*# devices\n/)
  t.end()
})
