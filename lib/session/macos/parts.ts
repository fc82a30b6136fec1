/** What a session on macOS is made of; tests put a modelled Mac in its place. */
import type { Decision } from '../../audit/record.js'
import type { Backend } from '../../backend/types.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import type { Running } from '../../launch/types.js'
import type { Plan, Settings } from '../../plan/types.js'
import type { System } from '../../system/types.js'
import type { serveControl } from '../control.js'
import type { GateProcess } from '../gate-process.js'
import type { LedgerLog } from '../ledger.js'
import type { Registry } from '../registry.js'
import type { MacGateRequest } from './gate.js'

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

interface MacAudit extends LedgerLog {
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

/** Which access lists a jail added. */
export const sharePath = (stateDir: string, jail: string): string =>
  `${stateDir}/shared-${jail}.json`

/** A jail's own certificate, alone and with the system's. */
export const caPaths = (stateDir: string, jail: string): { own: string; bundle: string } => ({
  own: `${stateDir}-ca/${jail}.pem`,
  bundle: `${stateDir}-ca/${jail}-bundle.pem`,
})
