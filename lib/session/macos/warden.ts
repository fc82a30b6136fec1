/**
 * One jail on macOS from claim to end: the same straight path as on Linux, over pf, dscl and launchctl.
 * Invariant: rules in and read back, gate listening, then launch; at the end the command and every process of its uid
 * first, the rules after. Whatever throws on the way undoes what was done, in reverse, and leaves denial.
 */
import { randomBytes } from 'node:crypto'
import { rootCertificates } from 'node:tls'
import { listRecords } from '../../account/dscl.js'
import { ensureMacAccount, ensureMacGateUser } from '../../account/macos.js'
import type { Decision } from '../../audit/record.js'
import type { Backend, GatePort, NetworkHold } from '../../backend/types.js'
import { createScrub } from '../../credentials/scrub.js'
import { JailError } from '../../errors.js'
import type { FromGate, GateConfig, GatePolicy, Listener } from '../../gate/protocol.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import { shareWorkspace } from '../../launch/macos/workspace.js'
import type { Ending, Running } from '../../launch/types.js'
import { wantsCa } from '../../plan/compile.js'
import type { Facts, Plan, Settings } from '../../plan/types.js'
import type { PortRange } from '../../policy/types.js'
import type { System } from '../../system/types.js'
import { Answers } from '../answers.js'
import { rememberNotices } from '../notices.js'
import { claimName } from '../claim.js'
import { endProcesses, refuseShared } from '../processes.js'
import { controlPath, serveControl } from '../control.js'
import type { GateProcess, ListenerSpec, OpenedListener } from '../gate-process.js'
import { HeldCommand } from '../held-command.js'
import { Ledger, type LedgerLog } from '../ledger.js'
import { takePin } from '../pins.js'
import type { Registry, RegistryEntry } from '../registry.js'
import { replan } from '../replan.js'
import { Undo } from '../undo.js'
import { watch, type Watch } from '../watch.js'
import type { MacGateRequest } from './gate.js'
import { joinable } from './join.js'

/** What a session is made of; tests put a modelled Mac in its place. */
export interface MacParts {
  readonly system: System
  readonly settings: Settings
  readonly registry: Registry
  readonly backend: Backend
  readonly openGate: (request: MacGateRequest) => GateProcess
  readonly launch: (request: MacLaunchRequest) => Promise<Running>
  readonly openAudit: () => Promise<MacAudit>
  readonly lock: <T>(work: () => Promise<T>) => Promise<T>
  /** How other commands reach it; default: the socket. */
  readonly serve?: typeof serveControl
}

export interface MacAudit extends LedgerLog {
  close(): Promise<void>
}

export interface MacEvents {
  readonly onDecisions: (decisions: readonly Decision[]) => void
  readonly onNotice: (text: string) => void
  /** The command runs: signals may be led to it. */
  readonly onRunning: (running: Running) => void
  /** Another policy is in force. */
  readonly onPolicy?: (plan: Plan) => void
}

/** Milliseconds; also how often expired pins leave their tables. */
const watchInterval = 900
const denialInterval = 500
const gateAnswer = 10_000
const launchctl = '/bin/launchctl'

/** Which access lists a jail added. */
export const sharePath = (stateDir: string, jail: string): string =>
  `${stateDir}/shared-${jail}.json`

/** A jail's own certificate, alone and with the system's. */
export const caPaths = (stateDir: string, jail: string): { own: string; bundle: string } => ({
  own: `${stateDir}-ca/${jail}.pem`,
  bundle: `${stateDir}-ca/${jail}-bundle.pem`,
})

export class MacWarden {
  readonly #parts: MacParts
  #plan: Plan
  readonly #facts: Facts
  readonly #events: MacEvents
  readonly #undo: Undo
  readonly #ledger: Ledger
  readonly #command: HeldCommand
  readonly #answers: Answers
  readonly #token = randomBytes(24).toString('base64url')
  #entry: RegistryEntry | undefined
  #hold: NetworkHold | undefined
  #gate: GateProcess | undefined
  /** As its command was launched: a further one is launched the same. */
  #request: MacLaunchRequest | undefined
  #policy: GatePolicy
  #serial = 0
  constructor(parts: MacParts, plan: Plan, facts: Facts, events: MacEvents) {
    this.#parts = parts
    this.#plan = plan
    this.#policy = plan.gate
    this.#facts = facts
    const scrub = createScrub(plan.gate.credentials)
    const { events: remembered, notices } = rememberNotices(events, scrub)
    this.#events = remembered
    this.#undo = new Undo(remembered.onNotice)
    this.#ledger = new Ledger(remembered.onDecisions, scrub)
    this.#command = new HeldCommand(plan.jail, remembered.onNotice)
    this.#answers = new Answers({
      command: this.#command,
      ledger: this.#ledger,
      plan: () => this.#plan,
      since: () => this.#entry?.since ?? 0,
      pins: () => 0,
      notices,
      reload: (policy) => this.reload(policy),
      join: () => {
        this.#command.live()
        if (this.#request === undefined) throw new Error('there is no launch yet')
        return joinable(this.#request)
      },
    })
  }

  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  async run(): Promise<Ending> {
    try {
      return await this.#supervise(await this.#start())
    } finally {
      this.#command.beginEnd()
      await this.#undo.all()
    }
  }

  /**
   * Puts an edited policy in force: the gate first, which cuts what is withdrawn, then the kernel in one transaction.
   * At no point is more open than both policies together allow; what fails puts the old policy back.
   */
  async reload(policy: Plan['policy']): Promise<{ readonly cut: number }> {
    this.#command.live()
    const hold = this.#hold
    if (hold === undefined) throw new Error('there is no network yet')
    const plan = replan(this.#plan, this.#policy, policy, this.#facts)
    refuseUnloadable(this.#plan, plan)
    const before = this.#policy
    const cut = await this.#updateGate(plan.gate)
    this.#policy = plan.gate
    try {
      await this.#parts.lock(() => hold.update(plan.network))
    } catch (error) {
      this.#policy = before
      await this.#updateGate(before)
      throw error
    }
    this.#plan = plan
    this.#events.onPolicy?.(plan)
    return { cut }
  }

  async #start(): Promise<Running> {
    const { lock, backend } = this.#parts
    const { network } = this.#plan
    await this.#claim()
    const gateUser = await lock(() => this.#prepareMachine())
    const audit = await this.#parts.openAudit()
    this.#ledger.writeTo(audit)
    this.#undo.push('close the audit log', 'nothing', () => audit.close())
    this.#undo.push('remove the rules', 'rules', () => lock(() => this.#removeRules()))
    const hold = await lock(() => backend.open(network))
    this.#hold = hold
    const listeners = await this.#openGate(gateUser)
    const ca = await this.#startGate(listeners)
    await lock(() => hold.connectGate(this.#gatePorts(listeners)))
    return await this.#launch(listeners, ca)
  }

  async #claim(): Promise<void> {
    const { system, registry, settings } = this.#parts
    const { jail } = this.#plan
    this.#entry = await claimName(system, registry, this.#plan)
    this.#undo.push('leave the registry', 'entry', () => registry.remove(jail))
    const serve = this.#parts.serve ?? serveControl
    const control = await serve(controlPath(settings.stateDir, jail), (request) =>
      this.#answers.answer(request),
    )
    this.#undo.push('close the control socket', 'nothing', () => control.close())
  }

  /** Under the lock. */
  async #prepareMachine(): Promise<{ uid: number; gid: number }> {
    const { system, settings, backend } = this.#parts
    const { account, jail } = this.#plan
    await backend.ensureStaticDeny(settings.uidRange)
    const gateUser = await ensureMacGateUser(system, settings)
    await ensureMacAccount(system, settings, account, jail, this.#events.onNotice)
    await refuseShared(system, account)
    return gateUser
  }

  async #openGate(user: { uid: number; gid: number }): Promise<readonly OpenedListener[]> {
    const gate = this.#parts.openGate({ node: this.#facts.nodePath, specs: this.#specs(), user })
    this.#gate = gate
    this.#undo.push('end the gate', 'nothing', () => this.#endGate(gate))
    gate.onMessage((message) => {
      this.#hear(gate, message)
    })
    gate.onExit((why) => {
      // Its end closes the jail's way out; the command must not go on half served.
      this.#command.fail(`the gate ended: ${why}`)
    })
    return await gate.listeners
  }

  async #updateGate(policy: GatePolicy): Promise<number> {
    const gate = this.#gate
    if (gate === undefined) throw new JailError('GATE', 'there is no gate')
    const serial = ++this.#serial
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new JailError('GATE', 'the gate does not take the policy'))
      }, gateAnswer)
      gate.onMessage((message) => {
        if (message.type !== 'updated' || message.serial !== serial) return
        clearTimeout(timer)
        resolve(message.cut)
      })
      gate.send({ type: 'update', serial, policy })
    })
  }

  #specs(): ListenerSpec[] {
    const { network, policy } = this.#plan
    if (!policy.transparent) return [{ proto: 'tcp', meant: 0, role: 'proxy' }]
    const of = (proto: 'tcp' | 'udp', ranges: readonly PortRange[]): ListenerSpec[] =>
      ranges.flatMap(({ first, last }) =>
        Array.from({ length: last - first + 1 }, (_, index) => ({ proto, meant: first + index })),
      )
    return [...of('udp', network.gateUdp), ...of('tcp', network.gateTcp)]
  }

  #gatePorts(listeners: readonly OpenedListener[]): GatePort[] {
    const seen = new Set<string>()
    return listeners.flatMap(({ proto, port, actual, role }): GatePort[] => {
      const key = `${proto}/${String(port)}`
      if (seen.has(key)) return []
      seen.add(key)
      if (role !== 'proxy') return [{ proto, port, gatePort: actual }]
      return [{ proto, port: actual, gatePort: actual, role }]
    })
  }

  async #startGate(listeners: readonly OpenedListener[]): Promise<string | undefined> {
    const { policy, gate } = this.#plan
    const config: GateConfig = {
      jail: this.#plan.jail,
      mode: policy.transparent ? 'redirect' : 'proxy',
      listeners: listeners.map(toListener),
      policy: gate,
      wantCa: wantsCa(gate),
      hostAddresses: this.#facts.hostAddresses,
      upstreams: this.#facts.resolvers,
      ...(policy.transparent ? {} : { proxyToken: this.#token }),
    }
    return await this.#gate?.start(config)
  }

  async #launch(listeners: readonly OpenedListener[], ca: string | undefined): Promise<Running> {
    const { network, policy, launch: spec, account } = this.#plan
    const { system, settings } = this.#parts
    const proxy = listeners.find(({ role }) => role === 'proxy')
    const own = ca === undefined ? undefined : await this.#writeCa(ca)
    const temporary = `${account.home}/tmp`
    if ((await system.lstat(temporary)) === undefined) await this.#makeTemporary(temporary)
    const unshare = await shareWorkspace(
      system,
      spec,
      await this.#callerName(),
      sharePath(settings.stateDir, this.#plan.jail),
    )
    this.#undo.push('take the shared workspace back', 'owed', async () => {
      const [line] = await unshare()
      if (line !== undefined) throw new JailError('STATE', line)
    })
    this.#undo.push('end the command', 'processes', () => this.#endCommand())
    const request: MacLaunchRequest = {
      spec,
      ...(proxy === undefined ? {} : { proxy: { port: proxy.actual, token: this.#token } }),
      ...(own === undefined ? {} : { ca: own }),
      tcp: [
        ...network.pinned.filter(({ proto }) => proto === 'tcp').flatMap(({ ports }) => ports),
        ...network.kernel.filter(({ proto }) => proto === 'tcp').flatMap(({ ports }) => ports),
        ...(policy.transparent ? network.gateTcp : []),
      ],
      udp: [
        ...network.pinned.filter(({ proto }) => proto === 'udp').flatMap(({ ports }) => ports),
        ...network.kernel.filter(({ proto }) => proto === 'udp').flatMap(({ ports }) => ports),
        ...(policy.transparent ? network.gateUdp : []),
      ],
      loopback: { connect: network.loopbackConnect, listen: network.loopbackListen },
      transparent: policy.transparent,
      hidden: [settings.stateDir, settings.logDir],
    }
    const running = await this.#parts.launch(request)
    this.#request = request
    this.#command.attach(running)
    if (policy.transparent)
      this.#events.onNotice(
        'transparent: the command may use the system resolver, which answers every name: queries can carry data out',
      )
    this.#events.onRunning(running)
    return running
  }

  async #callerName(): Promise<string | undefined> {
    const { uid } = this.#facts.caller
    if (uid === 0) return undefined
    const users = await listRecords(this.#parts.system, 'Users', 'UniqueID')
    return [...users].find(([, text]) => text === String(uid))?.[0]
  }

  /** Before any process of the user runs: it cannot have put a link in the way. */
  async #makeTemporary(path: string): Promise<void> {
    const { system } = this.#parts
    const { uid, gid } = this.#plan.account
    await system.makeDir(path, 0o700)
    await system.chown(path, uid, gid)
  }

  /** Readable by the jail, written by root, in a directory of root's. */
  async #writeCa(pem: string): Promise<{ own: string; bundle: string }> {
    const { system, settings } = this.#parts
    const { own, bundle } = caPaths(settings.stateDir, this.#plan.jail)
    this.#undo.push('remove the certificate', 'owed', async () => {
      await system.removeFile(own)
      await system.removeFile(bundle)
    })
    await system.makeDir(`${settings.stateDir}-ca`, 0o755)
    await system.writeFile(own, pem, 0o644)
    await system.writeFile(bundle, `${[pem, ...rootCertificates].join('\n')}\n`, 0o644)
    return { own, bundle }
  }

  async #supervise(running: Running): Promise<Ending> {
    const { registry } = this.#parts
    if (this.#entry !== undefined)
      await registry.update({ ...this.#entry, initPid: running.initPid, phase: 'running' })
    const denials = setInterval(() => void this.#ledger.read(this.#hold), denialInterval)
    const guard = this.#startWatch()
    const limit = this.#command.limit(this.#plan.policy.limits.time)
    try {
      return await running.ended
    } finally {
      this.#command.beginEnd()
      clearInterval(denials)
      clearTimeout(limit)
      await guard?.stop()
      await this.#ledger.read(this.#hold, true)
      for (const hit of await running.limitsHit()) this.#events.onNotice(hit)
    }
  }

  #startWatch(): Watch | undefined {
    const hold = this.#hold
    if (hold === undefined) return undefined
    return watch(
      { intact: () => hold.intact(), restore: () => this.#parts.lock(() => hold.restore()) },
      {
        every: watchInterval,
        onRestored: () => {
          this.#events.onNotice('the pf rules were gone (another tool?) and have been restored')
        },
        onLost: (why) => {
          this.#command.fail(`the pf rules cannot be restored: ${why}`)
        },
      },
    )
  }

  #hear(gate: GateProcess, message: FromGate): void {
    if (message.type === 'decisions') {
      this.#ledger.hear(message)
    } else if (message.type === 'pin') {
      void this.#pin(gate, message)
    } else if (message.type === 'fatal') {
      this.#events.onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
    }
  }

  async #pin(gate: GateProcess, request: Extract<FromGate, { type: 'pin' }>): Promise<void> {
    const { onNotice } = this.#events
    const { hostAddresses } = this.#facts
    // In a reload the gate names grants as the new policy does, before the kernel knows them.
    await this.#answers.settled
    const ok = await takePin(request, this.#hold, this.#policy, hostAddresses, onNotice)
    gate.send({ type: 'pinned', serial: request.serial, ok })
  }

  /** The user's whole launchd domain, then what is left of the uid; confirmed before any rule goes. */
  async #endCommand(): Promise<void> {
    const { system } = this.#parts
    const { uid } = this.#plan.account
    this.#command.running?.kill()
    await system.run([launchctl, 'bootout', `user/${String(uid)}`]).catch(() => undefined)
    await endProcesses(system, uid)
    await this.#command.kill()
  }

  async #endGate(gate: GateProcess): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      gate.onExit(() => {
        resolve()
      })
    })
    gate.send({ type: 'stop' })
    const timer = setTimeout(() => {
      gate.kill()
    }, 300)
    await gone
    clearTimeout(timer)
  }

  async #removeRules(): Promise<void> {
    const { backend } = this.#parts
    const { jail, network } = this.#plan
    try {
      await this.#hold?.close()
    } finally {
      await backend.collect({ name: jail, uid: network.uid, isolation: 'uid' })
    }
  }
}

function toListener({ fd, proto, role, port, family }: OpenedListener): Listener {
  return { fd, proto, role, port, ...(family === undefined ? {} : { family }) }
}

/** What was settled at the launch and cannot be changed under a running command. */
function refuseUnloadable(before: Plan, after: Plan): void {
  const restart = { hint: 'end the jail and start it with the new policy' }
  if (before.policy.transparent !== after.policy.transparent)
    throw new JailError('POLICY_INVALID', '"transparent" cannot change in a running jail', restart)
  const ports = (plan: Plan): string => JSON.stringify([plan.network.gateTcp, plan.network.gateUdp])
  if (after.policy.transparent && ports(before) !== ports(after))
    throw new JailError('POLICY_INVALID', 'other inspected ports need new listeners', restart)
  if (isWider(before, after))
    throw new JailError(
      'POLICY_INVALID',
      'the sandbox profile of the running command does not have these ports',
      restart,
    )
}

/** Ports that the seatbelt profile, made at the launch, does not know. */
function isWider(before: Plan, after: Plan): boolean {
  const portsOf = ({ network }: Plan): Set<string> => {
    const direct = [...network.pinned, ...network.kernel].flatMap(({ proto, ports }) =>
      ports.map(({ first, last }) => `${proto} ${String(first)}-${String(last)}`),
    )
    const connect = network.loopbackConnect.map((port) => `connect ${String(port)}`)
    const listen = network.loopbackListen.map((port) => `listen ${String(port)}`)
    return new Set([...direct, ...connect, ...listen])
  }
  const known = portsOf(before)
  return [...portsOf(after)].some((port) => !known.has(port))
}
