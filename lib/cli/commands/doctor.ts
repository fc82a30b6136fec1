/**
 * `agentjail doctor`: what this machine lacks for jails to start and hold, why it matters, and the fix.
 */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { wantsColour } from '../../audit/palette.js'
import { askResolver } from '../../doctor/ask-resolver.js'
import { diagnose, renderDiagnoses } from '../../doctor/doctor.js'
import { findBrokenPolicies } from '../../doctor/policies.js'
import type { Check, DoctorFacts } from '../../doctor/types.js'
import { JailError, errorMessage } from '../../errors.js'
import { packageRoot } from '../../session/host.js'
import { openUpkeep } from '../../session/upkeep.js'
import { defaultConfig, loadConfig } from '../../setup/config.js'
import { findTool, readDistro } from '../../system/tools.js'
import type { CommandIo } from '../io.js'

export interface DoctorArgs {
  /** Repairs what is safe to repair. */
  readonly fix: boolean
  readonly json: boolean
}

/** Exit 0: nothing failed; 1: something did. Throws `JailError` NOT_ROOT for `--fix` without root. */
export async function doctorCommand(args: DoctorArgs, io: CommandIo): Promise<number> {
  const isRoot = process.geteuid?.() === 0
  if (args.fix && !isRoot) {
    throw new JailError('NOT_ROOT', 'doctor --fix changes the system and needs root', {
      hint: 'sudo agentjail doctor --fix',
    })
  }
  const { facts, of } = await doctorFacts(isRoot)
  const diagnoses = await diagnose(facts, { fix: args.fix, of })
  io.stdout.write(
    args.json
      ? `${JSON.stringify(diagnoses, undefined, 2)}\n`
      : renderDiagnoses(diagnoses, wantsColour(io.stdout, io.env)),
  )
  return diagnoses.some(({ state }) => state === 'fail') ? 1 : 0
}

async function doctorFacts(isRoot: boolean): Promise<{ facts: DoctorFacts; of: readonly Check[] }> {
  // A broken configuration must not keep the doctor from looking at the rest.
  let configProblem: string | undefined
  const config = await loadConfig().catch((error: unknown) => {
    configProblem = errorMessage(error)
    return defaultConfig
  })
  const { system, checks } = await openUpkeep(config)
  const facts: DoctorFacts = {
    system,
    config,
    ...(configProblem !== undefined && { configProblem }),
    distro: readDistro(),
    isRoot,
    findTool,
    // This file is as old as the package; npm sets all files' times to 1985 where it packs them so.
    released: Math.max(
      statSync(fileURLToPath(import.meta.url)).mtimeMs,
      Date.parse('2026-01-01T00:00:00Z'),
    ),
    askResolver,
    brokenPolicies: () => findBrokenPolicies(join(packageRoot, 'policies')),
    collect: async () => {
      const { gcCommand } = await import('./gc.js')
      const silent = { write: () => true }
      const code = await gcCommand({ json: false }, { stdout: silent, stderr: silent, env: {} })
      if (code !== 0) throw new Error('not everything could be cleared: see agentjail gc')
    },
  }
  return { facts, of: await checks() }
}
