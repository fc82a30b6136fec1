/**
 * The battery on macOS: a jail started as `agentjail run` starts one, with a wire and services around it.
 * Invariant: the plan differs from that of `run` only in what is listed in `overlay`, and in `without`.
 */
import { randomBytes } from 'node:crypto'
import { macPieces, type MacPiece } from '../../launch/types.js'
import { launchMac } from '../../launch/macos/launch.js'
import type { Plan } from '../../plan/types.js'
import { collectDead, makeState } from '../../session/context.js'
import { spawnMacGate } from '../../session/macos/gate.js'
import { openMac } from '../../session/macos/open.js'
import { macPlatform } from '../../session/macos/platform.js'
import type { Platform } from '../../session/platform.js'
import { endProcesses } from '../../session/processes.js'
import { relaySignals } from '../../session/signals.js'
import { loadConfig } from '../../setup/config.js'
import { realSystem } from '../../system/real.js'
import type { System } from '../../system/types.js'
import { judgeBy } from '../judge.js'
import { defaultLimits, names, overlay } from '../overlay.js'
import { planBattery } from '../plan.js'
import { linesOf, lives, openResults } from '../results.js'
import type { Battery, BatteryRequest, Finding, MacInsideConfig } from '../types.js'
import { macOpen, macProbes, openIfTransparent } from './probes.js'
import { openMacStage, type MacStage } from './stage.js'
import { wire } from './wire.js'

type MacContext = ReturnType<typeof openMac>

export const macBattery: Battery = {
  size: macProbes.length,
  pieces: macPieces,
  run: async (request) => {
    const context = openMac(realSystem(), await loadConfig())
    await collectDead(context)
    await makeState(context)
    const isolation = context.platform.isolationFor(
      request.isolation,
      request.policy.isolation,
      request.onNotice,
    )
    const stage = await openMacStage(context.system, names)
    try {
      return { isolation, findings: await runIn(context, stage, request) }
    } finally {
      await stage.close()
    }
  },
}

async function runIn(
  context: MacContext,
  stage: MacStage,
  request: BatteryRequest,
): Promise<readonly Finding[]> {
  const { system, config } = context
  const without = request.without as readonly MacPiece[]
  const policy = overlay(request.policy, {
    address: wire.granted4,
    ports: [443, 8443].map((port) => ({ first: port, last: port })),
    isNameless: without.includes('gate-names'),
  })
  const { plan, facts } = await planBattery(context, {
    policy,
    policies: request.policies,
    isolation: 'uid',
    command: [process.execPath, '--input-type=module', '-'],
    cwd: stage.config.workspace,
    protect: [stage.package],
  })
  const inside: MacInsideConfig = {
    ...stage.config,
    pids: policy.limits.pids ?? defaultLimits.pids,
  }
  const path = `${config.stateDir}/verify-${randomBytes(8).toString('hex')}`
  const results = openResults('verify-inside-macos', path)
  const { output } = results
  try {
    const env = new Map([...plan.launch.env, ['AGENTJAIL_VERIFY', JSON.stringify(inside)]])
    const launch = { ...plan.launch, ...userOf(plan, without), env, stdio: results, without }
    const warden = platformOf(context, without).makeWarden(
      { ...plan, launch },
      facts,
      {
        onDecisions: () => undefined,
        onPolicy: () => undefined,
        onNotice: request.onNotice,
      },
      undefined,
    )
    await warden.run(relaySignals())
    const { uid } = plan.account
    const leftover = await lives(system, uid, output)
    await endProcesses(system, uid)
    const known = [...macOpen, ...(policy.transparent ? openIfTransparent : [])]
    const book = { probes: macProbes, known, lacks: {} }
    return judgeBy(book, linesOf(output), { ...stage.witness(), leftover })
  } finally {
    results.close()
  }
}

/** An account that every Mac has and no rule knows. */
function userOf(plan: Plan, without: readonly MacPiece[]): Pick<Plan['launch'], 'user'> {
  const nobody = { name: 'nobody', uid: 4_294_967_294, gid: 4_294_967_294, home: '/var/empty' }
  return { user: without.includes('network') ? nobody : plan.account }
}

/** `end` left out: a session that sees no process of the jail's user has none to end. */
function platformOf(context: MacContext, without: readonly MacPiece[]): Platform {
  if (!without.includes('end')) return context.platform
  const system: System = {
    ...context.system,
    processesOf: () => Promise.resolve([]),
    run: (argv, options) =>
      argv[1] === 'bootout'
        ? Promise.resolve({ code: 0, stdout: '', stderr: '' })
        : context.system.run(argv, options),
  }
  const launch: Parameters<typeof macPlatform>[0]['launch'] = (asked) => launchMac(system, asked)
  return macPlatform({ ...context, system, openGate: spawnMacGate, launch })
}
