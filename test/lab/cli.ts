/**
 * `npm run lab -- COMMAND...`: a lab for a person to try things in; without a command, a shell.
 * Runs as root on the lab's host, in the directory where it was started; exits as the command did.
 */
import { evil, resolver4, services } from './addresses.js'
import { caPath } from './files.js'
import { createLab } from './lab.js'
import { agentjailPath, root } from './paths.js'

const banner = [
  'The lab: this host has a private internet, and whatever you change here is gone at exit.',
  `  names     ${Object.values(services)
    .flatMap((s) => [...s.names])
    .join(' ')}`,
  `  attacker  ${evil.name} ${evil.v4} ${evil.v6} (answers on many ports, TCP and UDP)`,
  `  DNS       ${resolver4}; its CA is trusted; Node needs NODE_EXTRA_CA_CERTS=${caPath}`,
  `  users     root (you), alice (sudo without a password)`,
  `  agentjail ${agentjailPath}, also on the PATH`,
  '',
].join('\n')

const argv = process.argv.slice(2)
const lab = await createLab()
lab.writeFile('/usr/local/bin/agentjail', `#!/bin/sh\nexec node '${agentjailPath}' "$@"\n`, 0o755)
const terminal = process.stdin.isTTY && process.stdout.isTTY
if (argv.length === 0) process.stderr.write(banner)
const size = () => ({ rows: process.stdout.rows, columns: process.stdout.columns })
const program = lab.spawn(argv.length > 0 ? argv : ['bash'], {
  cwd: root,
  env: { NODE_EXTRA_CA_CERTS: caPath, TERM: process.env['TERM'] ?? 'xterm', PS1: 'lab# ' },
  tty: terminal ? size() : false,
  timeout: 2 ** 31 - 1,
})
program.child.stdout?.on('data', (text: string) => process.stdout.write(text))
program.child.stderr?.on('data', (text: string) => process.stderr.write(text))
if (terminal) {
  process.stdin.setRawMode(true)
  process.stdout.on('resize', () => program.resize(size().rows, size().columns))
}
process.stdin.on('data', (chunk: Buffer) => program.child.stdin?.write(chunk))
process.stdin.on('end', () => program.end())
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => program.kill(signal))
}
const { code, signal } = await program.ended
if (terminal) process.stdin.setRawMode(false)
await lab.close()
if (signal !== null) process.stderr.write(`ended by ${signal}\n`)
process.exit(code ?? 1)
