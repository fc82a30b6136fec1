/**
 * The table of commands, and what is made of it: `--help`, the man page, the completions.
 * Judges: the built program's output, groff, and the shells themselves.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parseRunArgs } from '../lib/cli/run-args.js'
import { commands, groups } from '../lib/cli/table/commands.js'
import { bundledNames } from '../lib/policy/loader.js'

const root = process.cwd()
const text = (path: string) => readFileSync(join(root, path), 'utf8')
const manifest = JSON.parse(text('package.json')) as { bin: { agentjail: string }; man: string[] }
const program = join(root, manifest.bin.agentjail)
const run = (...args: string[]) =>
  spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' })

t.test('--help of every command: its options and examples, within 80 columns', (t) => {
  for (const { name, options = [], positionals = [], examples } of commands) {
    const { status, stdout } = run(...name.split(' '), '--help')
    t.equal(status, 0, name)
    const wide = stdout.split('\n').filter((line) => line.length > 80)
    t.same(wide, [], `${name}: no line is wider`)
    for (const option of options) {
      t.equal(
        stdout.includes(`--${option.name}`),
        option.hidden !== true,
        `${name} --${option.name}`,
      )
    }
    for (const positional of positionals) t.match(stdout, positional.name)
    t.ok(examples.length > 0, `${name} has an example`)
    for (const [line] of examples) t.match(stdout, `  agentjail ${line}\n`)
  }
  for (const name of ['', ...groups.keys()]) {
    const { status, stdout } = run(...name.split(' ').filter(Boolean), '--help')
    t.equal(status, 0, name)
    t.same(
      stdout.split('\n').filter((line) => line.length > 80),
      [],
    )
    for (const one of commands.filter((c) => c.name.startsWith(name === '' ? '' : `${name} `)))
      t.match(stdout, `agentjail ${name === '' ? (one.name.split(' ')[0] ?? '') : one.name}`)
  }
  t.end()
})

t.test('words that are wrong: one line, exit 2', (t) => {
  const rows: [string[], RegExp][] = [
    [[], /say what to do/],
    [['bogus'], /^agentjail: unknown command: bogus; see: agentjail --help\n$/],
    [['stauts'], /unknown command: stauts.*did you mean agentjail status\?/],
    [['--', 'true'], /no command before --; say what to do/],
    [['frob', '--', 'run'], /unknown command: frob/],
    [['policy'], /say what to do; see: agentjail policy --help\n$/],
    [['policy', 'chek'], /unknown command of policy: chek.*did you mean agentjail policy check\?/],
    [['logs', '--bogus'], /unknown option --bogus; see: agentjail logs --help\n$/],
    [['logs', '--folow'], /unknown option --folow; did you mean --follow\?\n$/],
    [['logs', '-x'], /unknown option -x; see: agentjail logs --help\n$/],
    [['run'], /no policy is given; for example: /],
    [['run', '-p'], /-p needs a value; write -p POLICY\n$/],
    [['run', '-p', '-x.yaml', '--', 'true'], /-p needs a value; write -p POLICY\n$/],
    [['run', '-p', 'openai', '--name', '--', 'true'], /--name needs a value; write --name NAME\n$/],
    [
      ['run', '--join', 'a', '-p', 'openai', '--', 'true'],
      /--join and --policy do not go together/,
    ],
    [
      ['run', '-p', 'openai', '--isolation=magic', '--', 'true'],
      /--isolation "magic" is not known; choose one of namespace, uid, basic\n$/,
    ],
    [
      ['run', '-p', 'openai', 'x', '--', 'true'],
      /run does not take "x"; see: agentjail run --help/,
    ],
    [['deny', 'a-jail'], /deny needs DESTINATION; for example: agentjail deny my-bot api\./],
    [['status', 'a-jail'], /status does not take "a-jail"/],
    [['allow', 'a-jail'], /needs a destination/],
    [
      ['run', '-p', 'npm', 'ls', '-la'],
      /put -- before the command; agentjail run -p npm -- ls -la$/m,
    ],
    [['learn', '-o', 'x.yaml', 'echo', 'a b'], /agentjail learn -o x\.yaml -- echo 'a b'$/m],
    [['service', 'install', 'bot', '-p', 'npm', 'node', 'b'], /bot -p npm -- node b$/m],
    [['run', '-p', 'npm', '-n', 'a'.repeat(26), '--', 'true'], /25 characters at most/],
    [['run', '-p', 'npm', '--json', '--', 'true'], /--json .* --dry-run; .*agentjail logs/],
    [['logs', '--nope'], /; see: agentjail logs --help$/m],
    [['allow', 'x', '169.254.169.254/32'], /no destination; one address is written without \/32/],
    [['allow', './x.yaml', '169.254.169.254'], /no policy opens it/],
    [['service', 'logs', 'bot', '--lines', 'x'], /--lines is not a number/],
    [['completion', 'tcsh'], /SHELL "tcsh" is not known; choose one of bash, zsh, fish\n$/],
  ]
  for (const [args, message] of rows) {
    const { status, stderr } = run(...args)
    t.equal(status, 2, args.join(' '))
    t.match(stderr, message)
    t.equal(stderr.split('\n').length, 2, stderr)
  }
  t.end()
})

t.test('--version is what people type first', (t) => {
  const { version } = JSON.parse(text('package.json')) as { version: string }
  for (const args of [['--version'], ['version']])
    t.match(run(...args), { status: 0, stdout: `${version}\n`, stderr: '' })
  t.end()
})

t.test('a full disk under the output is an error, a reader that went away is none', (t) => {
  const shell = (line: string) =>
    spawnSync('bash', ['-c', line, 'bash', process.execPath, program], { encoding: 'utf8' })
  for (const words of ['policy list', '--help', 'completion bash'])
    t.match(shell(`"$1" "$2" ${words} > /dev/full`), {
      status: 125,
      stderr: /^agentjail: standard output was not written: .*ENOSPC.*; what was printed is not/,
    })
  const { status, stderr, stdout } = shell(
    `set -o pipefail; "$1" "$2" policy show coding-agent | head -n 1`,
  )
  t.match({ status, stderr }, { status: 0, stderr: '' })
  t.match(stdout, /^coding-agent /)
  t.end()
})

t.test('the quick parser of run knows no option that the table does not', (t) => {
  const spec = commands.find(({ name }) => name === 'run')
  const known = new Set(spec?.options?.map(({ name }) => name))
  const source = text('lib/cli/run-args.ts')
  const quick = [...source.matchAll(/^ {2}'?([a-z-]+)'?: \{ type: '(?:string|boolean)'/gm)]
  t.ok(quick.length >= 5)
  for (const [, name = ''] of quick) t.ok(known.has(name), name)
  t.ok(parseRunArgs(['run', '-p', 'openai', '--', 'true'], 'agentjail'))
  t.equal(parseRunArgs(['run', '--help', '--', 'true'], 'agentjail'), undefined)
  t.end()
})

/** As a terminal shows it. */
const rendered = (t: Test, page: string): string => {
  const argv = ['-man', '-t', '-Tascii', '-ww', '-P-cbou', page]
  const { stdout, stderr, status } = spawnSync('groff', argv, { cwd: root, encoding: 'utf8' })
  t.equal(status, 0)
  t.equal(stderr, '', 'no warning')
  t.same(
    stdout.split('\n').filter((line) => line.length > 80),
    [],
  )
  return stdout
}

t.test('agentjail-policy(5) has every key of a policy', (t) => {
  const page = manifest.man.find((path) => path.endsWith('/agentjail-policy.5')) ?? ''
  const stdout = rendered(t, page)
  const schema = JSON.parse(text('policies/policy.schema.json')) as {
    properties: Record<string, unknown>
    definitions: Record<string, { properties?: Record<string, unknown> } | undefined>
  }
  const { network, grant, credential } = schema.definitions
  const of = (one: typeof network) => Object.keys(one?.properties ?? {})
  const keys = [...Object.keys(schema.properties), ...of(network), ...of(grant), ...of(credential)]
  t.ok(keys.length > 30, String(keys.length))
  for (const key of keys) t.match(stdout, new RegExp(`\\b${key}\\b`), key)
  t.match(stdout, /^AGENTJAIL-POLICY\(5\)/)
  t.match(stdout, /^NAME$/m)
  // Nothing of the Markdown is left.
  t.notMatch(stdout, /\| -{3}|^ *#|\*\*[A-Z]|\]\(/m)
  t.end()
})

t.test('the man page has every command and option, and groff has nothing to say', (t) => {
  const [page = ''] = manifest.man
  const source = text(page)
  const stdout = rendered(t, page)
  for (const { name, options = [] } of commands) {
    t.match(stdout, new RegExp(`^   ${name}$`, 'm'))
    for (const option of options) {
      const isShown = source.includes(`\\-\\-${option.name.replaceAll('-', '\\-')}`)
      t.equal(isShown, option.hidden !== true, option.name)
    }
  }
  t.end()
})

t.test('README and man page name the same commands', (t) => {
  const table = text('README.md').split('## Commands')[1]?.split('\n## ')[0] ?? ''
  for (const name of new Set(commands.map(({ name }) => name.split(' ')[0] ?? '')))
    if (name !== 'version') t.match(table, new RegExp(`\`[^\`]*\\b${name}\\b`), name)
  t.end()
})

t.test('completions, by the shells', (t) => {
  const dir = t.testdir()
  const file = (shell: string) => {
    const { status, stdout } = run('completion', shell)
    t.equal(status, 0)
    const path = join(dir, `agentjail.${shell}`)
    writeFileSync(path, stdout)
    return path
  }
  const rows: [line: string[], wanted: string, never: string][] = [
    [[''], 'verify', 'openai'],
    [['policy', ''], 'check', 'verify'],
    [['run', '--pol'], '--policy', '--watch'],
    [['run', '-p', 'open'], 'openai', 'npm'],
    [['run', '--isolation', ''], 'uid', 'openai'],
    [['logs', '--de'], '--denied', '--follow'],
    [['policy', 'show', 'op'], 'openai', 'npm'],
    [['run', '-p', 'openai', '--', 'nod'], 'node', '--policy'],
  ]
  const bash = file('bash')
  const fish = file('fish')
  for (const [words, wanted, never] of rows) {
    const line = `agentjail ${words.join(' ')}`
    const script = `source ${bash}; COMP_WORDS=(agentjail ${words.map((w) => `'${w}'`).join(' ')}); COMP_CWORD=${String(words.length)}; _agentjail; printf '%s\\n' "\${COMPREPLY[@]}"`
    const PATH = `${join(process.execPath, '..')}:/usr/bin:/bin`
    const options = { encoding: 'utf8', env: { PATH, HOME: dir } } as const
    const inBash = execFileSync('bash', ['--norc', '-c', script], options).split('\n')
    t.ok(inBash.includes(wanted), `bash: ${line}: ${wanted}`)
    t.notOk(inBash.includes(never), `bash: ${line}: not ${never}`)
    const inFish = execFileSync(
      'fish',
      ['--no-config', '-c', `source ${fish}; complete -C '${line}'`],
      options,
    )
    const candidates = inFish.split('\n').map((each) => each.split('\t')[0])
    t.ok(candidates.includes(wanted), `fish: ${line}: ${wanted}`)
    t.notOk(candidates.includes(never), `fish: ${line}: not ${never}`)
  }
  file('zsh')
  const typed: [line: string, becomes: string][] = [
    ['agentjail veri', 'agentjail verify'],
    ['agentjail policy che', 'agentjail policy check'],
    ['agentjail run --pol', 'agentjail run --policy'],
    ['agentjail run -p openai-tele', 'agentjail run -p openai-telegram'],
    ['agentjail run --isolation ui', 'agentjail run --isolation uid'],
    ['agentjail logs --den', 'agentjail logs --denied'],
    // Of another command: as it was typed.
    ['agentjail logs --wat', 'agentjail logs --wat'],
    ['agentjail policy show mol', 'agentjail policy show moltbot'],
    ['agentjail run -p npm -- setpri', 'agentjail run -p npm -- setpriv'],
  ]
  for (const shell of ['bash', 'zsh', 'fish']) {
    const lines = typed.map(([line]) => line)
    const env = { PATH: '/usr/bin:/bin', HOME: dir, TERM: 'xterm' }
    const script = join(root, 'test/fixtures/press-tab.zsh')
    const { stdout, stderr } = spawnSync('zsh', ['-f', script, dir, shell, ...lines], {
      encoding: 'utf8',
      env,
    })
    const became = stdout.split('\n').map((line) => line.trim())
    typed.forEach(([line, wanted], n) => {
      t.equal(became[n], wanted, `${shell}, on a terminal: ${line} ${stderr}`)
    })
  }
  t.ok(bundledNames().every((name) => readFileSync(bash, 'utf8').includes(name)))
  t.end()
})
