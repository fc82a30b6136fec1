/**
 * Runs all checks, repairs where asked, and prints.
 * Invariant: a check that itself fails is a failed check, never a missing one.
 */
import { type Palette, palette } from '../audit/palette.js'
import { safeText } from '../audit/sanitise.js'
import { errorMessage } from '../errors.js'
import { kernelChecks } from './kernel.js'
import { machineChecks } from './machine.js'
import { neighbourChecks } from './neighbours.js'
import { type Check, type DoctorFacts, type Finding, type FindingState, isUnseen } from './types.js'

export const checks: readonly Check[] = [...kernelChecks, ...machineChecks, ...neighbourChecks]

export interface Diagnosis {
  readonly name: string
  readonly state: FindingState
  readonly detail: string
  readonly why: string
  readonly fix?: string
  /** Asked for and done; the state is the one after it. */
  readonly repaired?: true
}

/** In order. With `fix`, what can be repaired is, and looked at again. */
export async function diagnose(
  facts: DoctorFacts,
  options: {
    readonly fix: boolean
    readonly only?: readonly string[]
    /** Default: those of Linux. */
    readonly of?: readonly Check[]
  },
): Promise<readonly Diagnosis[]> {
  const chosen = (options.of ?? checks).filter(({ name }) => options.only?.includes(name) ?? true)
  const diagnoses: Diagnosis[] = []
  for (const check of chosen) diagnoses.push(await diagnoseOne(check, facts, options.fix))
  return diagnoses
}

async function diagnoseOne(check: Check, facts: DoctorFacts, fix: boolean): Promise<Diagnosis> {
  const before = await look(check, facts)
  if (!fix || before.repair === undefined || before.state === 'ok')
    return toDiagnosis(check, before)
  try {
    await before.repair()
  } catch (error) {
    const detail = `${before.detail}; the repair failed: ${errorMessage(error)}`
    return toDiagnosis(check, { ...before, detail })
  }
  return { ...toDiagnosis(check, await look(check, facts)), repaired: true }
}

async function look(check: Check, facts: DoctorFacts): Promise<Finding> {
  try {
    return await check.run(facts)
  } catch (error) {
    return { state: 'fail', detail: errorMessage(error), fix: 'mend what it says and look again' }
  }
}

function toDiagnosis({ name, why }: Check, { state, detail, fix }: Finding): Diagnosis {
  return { name, state, detail, why, ...(fix !== undefined && state !== 'ok' && { fix }) }
}

/** With line ends; the last line is the verdict. */
export function renderDiagnoses(diagnoses: readonly Diagnosis[], isColour: boolean): string {
  const c = palette(isColour)
  const width = Math.max(...diagnoses.map(({ name }) => name.length))
  const lines = diagnoses.flatMap((one) => {
    const detail = one.detail.split('\n').map((line) => safeText(line))
    const mended = one.repaired ? ' (repaired)' : ''
    const head = `${label(one.state, c)}  ${one.name.padEnd(width)}  ${detail[0] ?? ''}${mended}`
    const indent = ' '.repeat(width + 8)
    const rest = detail.slice(1).map((line) => indent + line)
    if (one.fix === undefined || isUnseen(one)) return [head, ...rest]
    return [head, ...rest, `${indent}why: ${one.why}`, `${indent}fix: ${one.fix}`]
  })
  lines.push(verdict(diagnoses))
  return `${lines.join('\n')}\n`
}

function verdict(diagnoses: readonly Diagnosis[]): string {
  const seen = diagnoses.filter((one) => !isUnseen(one))
  const unseen = diagnoses.length - seen.length
  const count = (state: FindingState): string =>
    String(seen.filter((one) => one.state === state).length)
  const rest = unseen === 0 ? '' : `; ${String(unseen)} not looked at: sudo agentjail doctor`
  if (count('fail') !== '0')
    return `${count('fail')} failed, ${count('warn')} with a warning${rest}`
  const warned = count('warn') === '0' ? '' : `, ${count('warn')} with a warning`
  return unseen === 0 ? `ready${warned}` : `nothing failed${warned}${rest}`
}

function label(state: FindingState, c: Palette): string {
  switch (state) {
    case 'ok':
      return c.green('ok  ')
    case 'warn':
      return c.yellow('warn')
    case 'fail':
      return c.red('FAIL')
  }
}
